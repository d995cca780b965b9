package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strconv"
	"strings"
)

// demo drives the fleet like one person with a browser, and prints what that person sees. It returns an error if the
// store did not behave as expected.
func demo(ctx context.Context, f *fleet, base, lives string, out io.Writer) error {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return err
	}
	v := &visitor{base: base, client: &http.Client{Jar: jar, Timeout: patience}, out: out}
	sticky := ""
	if f.options.sticky {
		sticky = ", each browser pinned to one replica"
	}
	fmt.Fprintf(out, "Sessions in %s%s.\n\n", lives, sticky)
	v.row("", "served by", "counter", "value", "")

	const milk = "milk"
	var last string // served the last request
	number := func(name string) int {
		n, _ := strconv.Atoi(strings.TrimPrefix(name, "replica-"))
		return n
	}
	reload := func(what string, times int) (err error) {
		for ; times > 0 && err == nil; times-- {
			last, err = v.reload(ctx, what)
			what = ""
		}
		return err
	}
	var killed []int
	kill := func() {
		killed = append(killed, number(last))
		f.kill(number(last))
	}
	for _, step := range []func() error{
		func() error { return f.start(1) },
		func() error { return reload("one replica", 2) },
		func() error { return v.save(ctx, milk) },
		func() error { return reload("save \"milk\"", 2) },
		f.startAll,
		func() error { return reload("three replicas", 4) },
		func() error { kill(); return reload("kill "+last, 4) },
		func() error { kill(); return reload("kill "+last, 2) },
		f.startAll,
		func() error { return reload("both come back", 4) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	if len(killed) != 2 || killed[0] == killed[1] {
		return fmt.Errorf("killed %v: a killed replica served a request", killed)
	}

	if v.lost == 0 {
		fmt.Fprintf(out, "\n%d reloads, two replicas killed and restarted: nothing was lost.\n", v.reloads)
	} else {
		fmt.Fprintf(out, "\n%d of %d reloads found no session, or another one, because each replica knows only its own. Try -store redis or -store cookie.\n", v.lost, v.reloads)
	}
	if (v.lost == 0) != (f.options.store != "memory") {
		return fmt.Errorf("-store %s should not do that", f.options.store)
	}
	return nil
}

// visitor is a browser, and what the person using it knows.
type visitor struct {
	base   string
	client *http.Client
	out    io.Writer

	reloads int
	saved   string
	lost    int
}

// reload requests the page once, and compares it with what it should show.
func (v *visitor) reload(ctx context.Context, what string) (servedBy string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, v.base+"/", nil)
	if err != nil {
		return "", err
	}
	req.Header.Set("Accept", "application/json")
	resp, err := v.client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var page view
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("the page responds with %s", resp.Status)
	}
	if err := json.NewDecoder(resp.Body).Decode(&page); err != nil {
		return "", err
	}
	v.reloads++
	verdict := "ok"
	if page.Visits != v.reloads || page.Value != v.saved {
		v.lost++
		verdict = "LOST   should be " + strconv.Itoa(v.reloads)
		if v.saved != "" {
			verdict += ", " + v.saved
		}
	}
	if refused := resp.Header.Get(refusedHeader); refused != "" {
		verdict += "   (" + refused + " refused)"
	}
	v.row(what, page.ServedBy, strconv.Itoa(page.Visits), cmp.Or(page.Value, "-"), verdict)
	return page.ServedBy, nil
}

// save submits the form. It does not follow the redirect: the next reload shows the result.
func (v *visitor) save(ctx context.Context, value string) error {
	form := strings.NewReader(url.Values{"value": {value}}.Encode())
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, v.base+"/value", form)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	stay := *v.client
	stay.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, err := stay.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusSeeOther {
		return fmt.Errorf("the form responds with %s", resp.Status)
	}
	v.saved = value
	return nil
}

func (v *visitor) row(what, servedBy, counter, value, verdict string) {
	line := fmt.Sprintf("%-16s  %-10s  %7s  %-6s  %s", what, servedBy, counter, value, verdict)
	fmt.Fprintln(v.out, strings.TrimRight(line, " "))
}
