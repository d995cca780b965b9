package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/network"
	cdppage "github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/storage"
	"github.com/chromedp/cdproto/target"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"
)

// patience bounds each wait for the browser. It only decides how long a broken test takes: nothing waits for as long
// as it may.
const patience = 90 * time.Second

// browser is one Chromium process.
type browser struct {
	ctx    context.Context
	output *output
	closed bool
}

// What becomes of the cookies of sites that are embedded in others.
const (
	keepsEmbedded = 0 // they are cookies like any other
	holdsEmbedded = 1 // in Incognito windows, which those of a headless Chromium are, they are neither kept nor sent: the default
)

// newProfile makes a directory that is removed when the test ends. Processes of Chromium may outlive the first of them by a
// moment, and write into it, which t.TempDir does not forgive.
func newProfile(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "e2e-chromium")
	require.NoError(t, err)
	t.Cleanup(func() {
		for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			if err := os.RemoveAll(dir); err == nil {
				return
			} else if time.Now().After(end) {
				t.Errorf("the profile of chromium stays: %v", err)
				return
			}
		}
	})
	return dir
}

// startBrowser runs a headless Chromium whose profile is in dir, and stops it when the test ends. It takes every *.test
// name to loopback, finds no other, and trusts the keys of these servers, but no other certificate that it would not trust anyway.
// Without Chromium the test is skipped; with CI set in the environment it fails.
func startBrowser(t testing.TB, dir string, embedded int) *browser {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("chromium is not installed: CI must have it")
		}
		t.Skip("chromium is not installed: this test needs a real browser (Debian: apt install chromium)")
	}
	b := &browser{output: &output{}}
	prefs := filepath.Join(dir, "Default", "Preferences")
	if _, err := os.Stat(prefs); err != nil {
		require.NoError(t, os.MkdirAll(filepath.Dir(prefs), 0o700))
		require.NoError(t, os.WriteFile(prefs, fmt.Appendf(nil, `{"profile": {"cookie_controls_mode": %d}}`, embedded), 0o600))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "First Run"), nil, 0o600)) // or others would take their place
	}
	opts := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path),
		chromedp.UserDataDir(dir),
		chromedp.CombinedOutput(b.output),
		chromedp.Flag("disable-gpu", true),
		chromedp.Flag("host-resolver-rules", "MAP *.test 127.0.0.1, MAP localhost 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"),
		chromedp.Flag("ignore-certificate-errors-spki-list", trustedKey(t)),
		chromedp.Flag("disable-component-update", true),
	)
	allocator, stopAllocator := chromedp.NewExecAllocator(context.Background(), opts...)
	ctx, cancel := chromedp.NewContext(allocator)
	b.ctx = ctx
	t.Cleanup(func() {
		b.close(t)
		cancel()
		stopAllocator()
		if t.Failed() {
			t.Logf("chromium wrote:\n%s", b.output)
		}
	})
	require.NoError(t, begin(ctx, cancel), "chromium did not start\n%s", b.output)
	return b
}

// begin makes what a chromedp context stands for. That lives as long as the context of the first call, which can thus
// have no deadline.
func begin(ctx context.Context, cancel func()) error {
	late := time.AfterFunc(patience, cancel)
	defer late.Stop()
	return chromedp.Do(ctx)
}

// close ends Chromium as its user would, so that it writes its cookies to the profile.
func (b *browser) close(t testing.TB) {
	if b.closed {
		return
	}
	b.closed = true
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	if err := chromedp.Cancel(ctx); err != nil {
		t.Errorf("closing chromium: %v", err)
	}
}

// trustedKey names the key of the test's servers as Chromium wants it. The authority that has signed it would have to go
// into a database of NSS, with a tool that few machines have.
func trustedKey(t testing.TB) string {
	t.Helper()
	cert, err := theCertificate()
	require.NoError(t, err)
	block, _ := pem.Decode(cert.Leaf)
	leaf, err := x509.ParseCertificate(block.Bytes)
	require.NoError(t, err)
	sum := sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
	return base64.StdEncoding.EncodeToString(sum[:])
}

// output is what Chromium says, safe to read while it runs.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// person is somebody with cookies of their own.
type person struct {
	t    testing.TB
	b    *browser
	id   cdp.BrowserContextID // empty: the one whose cookies are in the profile
	tabs []func()             // wait for what is left of the tabs
}

// person opens a browser context without cookies, which ends with the test.
func (b *browser) person(t testing.TB) *person {
	t.Helper()
	p := &person{t: t, b: b}
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	made, err := chromedp.CallBrowser(ctx, target.CreateBrowserContext, target.CreateBrowserContextParams{})
	require.NoError(t, err)
	p.id = made.BrowserContextID
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(b.ctx, patience)
		defer cancel()
		// Takes its tabs with it, at once; to close them one after the other takes longer than most tests.
		if _, err := chromedp.CallBrowser(ctx, target.DisposeBrowserContext, target.DisposeBrowserContextParams{BrowserContextID: p.id}); err != nil {
			t.Errorf("closing a browser context: %v", err)
		}
		for _, end := range p.tabs {
			end()
		}
	})
	return p
}

// owner is the person whose cookies are in the profile directory.
func (b *browser) owner(t testing.TB) *person {
	t.Helper()
	p := &person{t: t, b: b}
	t.Cleanup(func() {
		for _, end := range p.tabs {
			end()
		}
	})
	return p
}

// cookies returns what the browser has stored for this person.
func (p *person) cookies() []*network.Cookie {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.b.ctx, patience)
	defer cancel()
	got, err := chromedp.CallBrowser(ctx, storage.GetCookies, storage.GetCookiesParams{BrowserContextID: p.id})
	require.NoError(p.t, err)
	return got.Cookies
}

// forget clears the cookies.
func (p *person) forget() {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.b.ctx, patience)
	defer cancel()
	_, err := chromedp.CallBrowser(ctx, storage.ClearCookies, storage.ClearCookiesParams{BrowserContextID: p.id})
	require.NoError(p.t, err)
	require.Empty(p.t, p.cookies())
}

// cookie returns the stored cookies of this name.
func (p *person) cookie(name string) (found []*network.Cookie) {
	p.t.Helper()
	for _, c := range p.cookies() {
		if c.Name == name {
			found = append(found, c)
		}
	}
	return found
}

// put stores a cookie of another person in this one's browser.
func (p *person) put(c *network.Cookie) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.b.ctx, patience)
	defer cancel()
	_, err := chromedp.CallBrowser(ctx, storage.SetCookies, storage.SetCookiesParams{BrowserContextID: p.id, Cookies: []*network.CookieParam{{
		Name: c.Name, Value: c.Value, Domain: c.Domain, Path: c.Path, Secure: c.Secure, HTTPOnly: c.HTTPOnly, SameSite: c.SameSite,
	}}})
	require.NoError(p.t, err)
}

// tab is one tab, with a log of its network.
type tab struct {
	t   testing.TB
	ctx context.Context

	mu      sync.Mutex
	changed chan struct{} // closed at each event
	main    cdp.FrameID
	loads   int // load events of the page
	flights []*flight
	byID    map[network.RequestID]*flight
}

// flight is one request with the redirects that followed: a hop for each.
type flight struct {
	main     bool
	hops     []*hop
	wantSent int // how many hops come with extra information
	wantGot  int
	sent     []*network.EventRequestWillBeSentExtraInfo
	got      []*network.EventResponseReceivedExtraInfo
	loads    int // of the page, before it
	done     bool
	failed   string
}

// hop is one request and its response, as Chromium saw them on the wire.
type hop struct {
	Method, URL string
	Status      int
	Cookie      string              // the request header
	Withheld    map[string][]string // stored cookies that were not sent, with the reasons
	SetCookie   []string            // the response headers
	Refused     map[string][]string // Set-Cookie lines that were not stored, with the reasons
}

// tab opens a tab.
func (p *person) tab() *tab {
	p.t.Helper()
	var opts []chromedp.ContextOption
	if p.id != "" {
		opts = append(opts, chromedp.WithExistingBrowserContext(p.id))
	}
	ctx, cancel := chromedp.NewContext(p.b.ctx, opts...)
	p.tabs = append(p.tabs, cancel)
	tb := &tab{t: p.t, ctx: ctx, changed: make(chan struct{}), byID: map[network.RequestID]*flight{}}
	require.NoError(p.t, begin(ctx, cancel))
	tb.main = cdp.FrameID(chromedp.FromContext(ctx).Target.TargetID)
	require.NoError(p.t, chromedp.Listen(ctx, tb.note))
	require.NoError(p.t, tb.do(func(ctx context.Context) error {
		_, err := chromedp.Call(ctx, network.Enable, network.EnableParams{})
		return err
	}))
	return tb
}

func (tb *tab) do(f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(tb.ctx, patience)
	defer cancel()
	return f(ctx)
}

// note takes down what happens on the network. The extra information may come before or after the event that it
// belongs to, in the order of the hops.
func (tb *tab) note(ev any) {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	switch ev := ev.(type) {
	case *network.EventRequestWillBeSent:
		f := tb.flight(ev.RequestID)
		if len(f.hops) == 0 {
			f.loads = tb.loads
			f.main = ev.FrameID == tb.main && ev.Type == network.ResourceTypeDocument
		} else if ev.RedirectResponse != nil {
			f.hops[len(f.hops)-1].Status = int(ev.RedirectResponse.Status)
			if ev.RedirectHasExtraInfo {
				f.wantSent++
				f.wantGot++
			}
		}
		f.hops = append(f.hops, &hop{Method: ev.Request.Method, URL: ev.Request.URL})
	case *network.EventRequestWillBeSentExtraInfo:
		f := tb.flight(ev.RequestID)
		f.sent = append(f.sent, ev)
	case *network.EventResponseReceived:
		f := tb.flight(ev.RequestID)
		if len(f.hops) > 0 {
			f.hops[len(f.hops)-1].Status = int(ev.Response.Status)
		}
		if ev.HasExtraInfo {
			f.wantSent++
			f.wantGot++
		}
	case *network.EventResponseReceivedExtraInfo:
		f := tb.flight(ev.RequestID)
		f.got = append(f.got, ev)
	case *network.EventLoadingFinished:
		tb.flight(ev.RequestID).done = true
	case *network.EventLoadingFailed:
		f := tb.flight(ev.RequestID)
		f.done, f.failed = true, ev.ErrorText
	case *cdppage.EventLoadEventFired:
		tb.loads++
	default:
		return
	}
	close(tb.changed)
	tb.changed = make(chan struct{})
}

func (tb *tab) flight(id network.RequestID) *flight {
	f := tb.byID[id]
	if f == nil {
		f = &flight{}
		tb.byID[id] = f
		tb.flights = append(tb.flights, f)
	}
	return f
}

// await waits until the log fulfils a condition.
func (tb *tab) await(what string, cond func() bool) {
	tb.t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for {
		tb.mu.Lock()
		ok, changed := cond(), tb.changed
		tb.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-deadline.C:
			tb.mu.Lock()
			defer tb.mu.Unlock()
			for _, f := range tb.flights {
				tb.t.Logf("%+v", *f)
			}
			tb.t.Fatalf("the browser did not come to it: %s", what)
		}
	}
}

// visit does what leads to another page, waits for that page, and gives the hops on the way there.
func (tb *tab) visit(what string, act func(context.Context) error) []hop {
	tb.t.Helper()
	return tb.begin(what, act)()
}

// begin does what leads to another page, and gives a function that waits for it.
func (tb *tab) begin(what string, act func(context.Context) error) (arrive func() []hop) {
	tb.t.Helper()
	tb.mu.Lock()
	seen := len(tb.flights)
	tb.mu.Unlock()
	var load *chromedp.LoadError
	if err := tb.do(act); err != nil && !errors.As(err, &load) {
		tb.t.Fatalf("%s: %v", what, err)
	}
	return func() []hop {
		tb.t.Helper()
		var f *flight
		tb.await(what, func() bool {
			for _, g := range tb.flights[seen:] {
				if g.main {
					f = g
				}
			}
			return f != nil && f.done && len(f.sent) >= f.wantSent && len(f.got) >= f.wantGot && (f.failed != "" || tb.loads > f.loads)
		})
		tb.mu.Lock()
		defer tb.mu.Unlock()
		return f.read()
	}
}

// read joins the hops with their extra information.
func (f *flight) read() (hops []hop) {
	for i, h := range f.hops {
		h := *h
		h.Withheld, h.Refused = map[string][]string{}, map[string][]string{}
		if i < len(f.sent) {
			h.Cookie = rawHeader(f.sent[i].Headers, "Cookie")
			for _, c := range f.sent[i].AssociatedCookies {
				for _, why := range c.BlockedReasons {
					h.Withheld[c.Cookie.Name] = append(h.Withheld[c.Cookie.Name], string(why))
				}
			}
		}
		if i < len(f.got) {
			if lines := rawHeader(f.got[i].Headers, "Set-Cookie"); lines != "" {
				h.SetCookie = strings.Split(lines, "\n")
			}
			for _, c := range f.got[i].BlockedCookies {
				h.Refused[c.CookieLine] = nil
				for _, why := range c.BlockedReasons {
					h.Refused[c.CookieLine] = append(h.Refused[c.CookieLine], string(why))
				}
			}
		}
		hops = append(hops, h)
	}
	return hops
}

func rawHeader(h network.Headers, name string) string {
	for k, v := range h {
		if strings.EqualFold(k, name) {
			return fmt.Sprint(v)
		}
	}
	return ""
}

// open types an address.
func (tb *tab) open(u string) []hop {
	tb.t.Helper()
	return tb.visit("open "+u, func(ctx context.Context) error { return chromedp.Do(ctx, chromedp.Navigate(u)) })
}

// click clicks on something that leads to another page.
func (tb *tab) click(selector string) []hop {
	tb.t.Helper()
	return tb.beginClick(selector)()
}

// beginClick does not wait for the page.
func (tb *tab) beginClick(selector string) (arrive func() []hop) {
	tb.t.Helper()
	return tb.begin("click "+selector, func(ctx context.Context) error {
		return chromedp.Do(ctx, chromedp.Evaluate[chromedp.Void](fmt.Sprintf("document.querySelector(%q).click()", selector)))
	})
}

// follow clicks on a link that the page does not have yet.
func (tb *tab) follow(u string) []hop {
	tb.t.Helper()
	tb.js(fmt.Sprintf(`(a => { a.id = "follow"; a.href = %q; document.body.append(a) })(document.createElement("a"))`, u))
	return tb.click("#follow")
}

// submit sends an empty form that the page does not have yet.
func (tb *tab) submit(u string) []hop {
	tb.t.Helper()
	tb.js(fmt.Sprintf(`(f => { f.id = "submit"; f.method = "post"; f.action = %q; f.innerHTML = "<button>go</button>"; document.body.append(f) })(document.createElement("form"))`, u))
	return tb.click("#submit button")
}

// fill writes into a field.
func (tb *tab) fill(selector, value string) {
	tb.t.Helper()
	tb.js(fmt.Sprintf("document.querySelector(%q).value = %q", selector, value))
}

// text returns the text of an element.
func (tb *tab) text(selector string) string {
	tb.t.Helper()
	return tb.js(fmt.Sprintf("document.querySelector(%q).textContent", selector))
}

// frame embeds a page and waits until it is there.
func (tb *tab) frame(u string) {
	tb.t.Helper()
	tb.js(fmt.Sprintf(`new Promise(loaded => {
		const f = document.createElement("iframe");
		f.onload = loaded;
		f.src = %q;
		document.body.append(f);
	})`, u))
}

// deadline returns a channel for waits that are not on the browser.
func deadline(t testing.TB) <-chan time.Time {
	timer := time.NewTimer(patience)
	t.Cleanup(func() { timer.Stop() })
	return timer.C
}

// js evaluates an expression, waits for the promise if it is one, and gives it as a string.
func (tb *tab) js(expression string) (result string) {
	tb.t.Helper()
	require.NoError(tb.t, tb.do(func(ctx context.Context) (err error) {
		result, err = chromedp.Run(ctx, chromedp.Evaluate[string]("(async () => String(await ("+expression+")))()", chromedp.EvalAwaitPromise))
		return err
	}), expression)
	return result
}

// TestBrowser drives the chains with one Chromium, whose cookie jar has the last word on what a browser keeps and sends.
func TestBrowser(t *testing.T) {
	b := startBrowser(t, newProfile(t), keepsEmbedded)
	for _, c := range []struct {
		name string
		test func(*testing.T, *browser)
	}{
		{"Table", testTable},
		{"TwoTabs", testTwoTabs},
		{"LogoutInOneTab", testLogoutInOneTab},
		{"SameSite", testSameSite},
		{"Neighbours", testNeighbours},
		{"LoginService", testLoginService},
		{"HostPrefix", testHostPrefix},
		{"Refused", testRefused},
		{"Partitioned", testPartitioned},
		{"SecureOnHTTP", testSecureOnHTTP},
		{"Size", testSize},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, b) })
	}
}
