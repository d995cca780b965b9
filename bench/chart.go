package main

import (
	"fmt"
	"math"
	"strings"
	"time"
)

// The charts are SVG that follows the reader's light or dark theme. They are narrow, so that their text can still be read
// where the page is.

const chartWidth = 480

// shown are the subjects of the charts, in the order of their colours.
var shown = []struct{ name, label, class string }{
	{oursRedis, "Handover", "ours"},
	{bareCommands, "bare commands", "bare"},
	{scsPlain, "scs", "scs"},
	{gorillaPlain, "gorilla", "gorilla"},
}

func svg(height int, title, body string) string {
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="600" role="img" aria-labelledby="t">
<title id="t">%s</title>
<style>
text{font:13px system-ui,-apple-system,"Segoe UI","Helvetica Neue",Arial,sans-serif;fill:#1f2328}
.title{font-size:15px;font-weight:600}.group{font-weight:600}.note,.axis{fill:#59636e;font-size:12px}.end{text-anchor:end}.mid{text-anchor:middle}
rect.ours{fill:#0a6b5e}rect.bare{fill:#8c959f}rect.scs{fill:#d4a72c}rect.gorilla{fill:#bc6c4f}
.grid{stroke:#d1d9e0;stroke-width:1}.spread{stroke:#1f2328;stroke-width:1.5}
polyline{fill:none;stroke-width:2.5;stroke-linejoin:round}
polyline.ours{stroke:#0a6b5e}polyline.bare{stroke:#8c959f;stroke-dasharray:5 3}polyline.scs{stroke:#d4a72c}polyline.gorilla{stroke:#bc6c4f}
circle.ours{fill:#0a6b5e}circle.bare{fill:#8c959f}circle.scs{fill:#d4a72c}circle.gorilla{fill:#bc6c4f}
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.note,.axis{fill:#9198a1}.grid{stroke:#3d444d}.spread{stroke:#e6edf3}
rect.ours,circle.ours{fill:#3fb8a5}polyline.ours{stroke:#3fb8a5}rect.gorilla,circle.gorilla{fill:#d98a6a}polyline.gorilla{stroke:#d98a6a}}
</style>
%s</svg>
`, chartWidth, height, title, body)
}

// chart draws the times on Redis as bars, with a line over the middle half of the rounds.
func (r *results) chart() string {
	const left, right, bar, step = 124, 66, 13, 18
	var drawn []group
	most := time.Duration(1)
	for _, g := range groups {
		_, ok := r.cost(oursRedis, g.op, g.size)
		if !ok || g.op == slide || g.op == readWrite && g.size == large { // which would make all others short
			continue
		}
		drawn = append(drawn, g)
		for _, s := range shown {
			c, _ := r.cost(s.name, g.op, g.size)
			most = max(most, c.Time, c.Q3)
		}
	}
	scale := func(d time.Duration) float64 { return float64(d) / float64(most) * float64(chartWidth-left-right) }
	var b strings.Builder
	fmt.Fprintf(&b, "<text class=\"title\" x=\"8\" y=\"20\">Time of a request with its session in Redis</text>\n")
	fmt.Fprintf(&b, "<text class=\"note\" x=\"8\" y=\"38\">µs, less is better; the line is the middle half of %d rounds</text>\n", r.Rounds)
	y := 64
	for _, g := range drawn {
		fmt.Fprintf(&b, "<text class=\"group\" x=\"8\" y=\"%d\">%s</text>\n", y, g.title)
		y += 8
		for _, s := range shown {
			c, ok := r.cost(s.name, g.op, g.size)
			if !ok {
				continue
			}
			w := max(scale(c.Time), 1)
			middle := float64(y) + bar/2.0
			fmt.Fprintf(&b, "<text class=\"end\" x=\"%d\" y=\"%d\">%s</text>", left-8, y+11, s.label)
			fmt.Fprintf(&b, "<rect class=\"%s\" x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"%d\" rx=\"2\"/>", s.class, left, y, w, bar)
			fmt.Fprintf(&b, "<line class=\"spread\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\"/>", left+scale(c.Q1), left+max(scale(c.Q3), 1), middle, middle)
			fmt.Fprintf(&b, "<text class=\"note\" x=\"%.1f\" y=\"%d\">%s</text>\n", left+max(w, scale(c.Q3))+6, y+11, us(c.Time))
			y += step
		}
		y += 22
	}
	return svg(y-16, "Time of a request with its session in Redis, in microseconds: Handover beside the bare commands, scs and gorilla", b.String())
}

// growthChart draws how the time grows with the sessions in Redis, and with the keys of a session.
func (r *results) growthChart() string {
	var b strings.Builder
	fmt.Fprintf(&b, "<text class=\"title\" x=\"8\" y=\"20\">Time of a request (µs) as there is more in Redis</text>\n")
	x := 8
	for _, s := range shown {
		fmt.Fprintf(&b, "<rect class=\"%s\" x=\"%d\" y=\"33\" width=\"12\" height=\"12\" rx=\"2\"/><text x=\"%d\" y=\"44\">%s</text>\n", s.class, x, x+17, s.label)
		x += 40 + 8*len(s.label)
	}
	const panelWidth, panelHeight = chartWidth / 2, 204
	for i, p := range []struct {
		title string
		rows  []growRow
		op    op
	}{
		{"Read, by sessions in Redis", r.Fill, read}, {"Read and write", r.Fill, readWrite},
		{"Read, by keys of a session", r.Keys, read}, {"Read and write", r.Keys, readWrite},
	} {
		drawPanel(&b, i%2*panelWidth, 62+i/2*panelHeight, p.title, p.rows, p.op)
	}
	return svg(62+2*panelHeight, "Time of a request by the sessions in Redis and by the keys of a session: Handover beside the bare commands, scs and gorilla", b.String())
}

func drawPanel(b *strings.Builder, left, top int, title string, rows []growRow, o op) {
	const axis, width, height = 44, 176, 130
	x0, y0 := float64(left+axis), float64(top+30+height)
	fmt.Fprintf(b, "<text class=\"group\" x=\"%d\" y=\"%d\">%s</text>\n", left+8, top+12, title)
	sizes := sizesOf(rows)
	if len(sizes) == 0 {
		return
	}
	most := 0.0
	for _, g := range rows {
		if g.Op == o {
			most = max(most, float64(g.Time)/1e3)
		}
	}
	unit := roundUp(most / 3)
	top3 := 3 * unit
	// x goes by how many times more there is, y by the time, from nothing.
	first, last := math.Log(float64(sizes[0])), math.Log(float64(sizes[len(sizes)-1]))
	xOf := func(n int) float64 { return x0 + 12 + (width-24)*(math.Log(float64(n))-first)/max(last-first, 1e-9) }
	yOf := func(us float64) float64 { return y0 - us/top3*height }
	for i := range 4 {
		v := float64(i) * unit
		fmt.Fprintf(b, "<line class=\"grid\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\"/><text class=\"axis end\" x=\"%.1f\" y=\"%.1f\">%g</text>\n",
			x0, x0+width, yOf(v), yOf(v), x0-6, yOf(v)+4, v)
	}
	for _, n := range sizes {
		fmt.Fprintf(b, "<text class=\"axis mid\" x=\"%.1f\" y=\"%.1f\">%s</text>\n", xOf(n), y0+18, short(n))
	}
	for i := range shown { // ours last, on top
		s := shown[len(shown)-1-i]
		var points, dots strings.Builder
		for _, n := range sizes {
			if c, ok := grown(rows, s.name, o, n); ok {
				x, y := xOf(n), yOf(float64(c.Time)/1e3)
				fmt.Fprintf(&points, "%.1f,%.1f ", x, y)
				fmt.Fprintf(&dots, "<circle class=\"%s\" cx=\"%.1f\" cy=\"%.1f\" r=\"3.5\"/>", s.class, x, y)
			}
		}
		fmt.Fprintf(b, "<polyline class=\"%s\" points=\"%s\"/>%s\n", s.class, strings.TrimSpace(points.String()), dots.String())
	}
}

// roundUp returns the next of 1, 2, 2.5, 5, 10, 20 and so on.
func roundUp(v float64) float64 {
	if v <= 0 {
		return 1
	}
	ten := math.Pow(10, math.Floor(math.Log10(v)))
	for _, f := range []float64{1, 2, 2.5, 5} {
		if v <= f*ten {
			return f * ten
		}
	}
	return 10 * ten
}
