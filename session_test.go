package sessions_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"handover.example/sessions"
	"handover.example/sessions/internal/redistest"
	"handover.example/sessions/sessiontest"
)

func TestSession_Values(t *testing.T) {
	eachStore(t, func(t *testing.T, _ storeCase, store sessions.Store) {
		type profile struct {
			Name string
			Tags []string
		}
		var (
			name    = sessions.NewKey[string]("name")
			count   = sessions.NewKey[int]("count")
			person  = sessions.NewKey[profile]("person")
			nothing = sessions.NewKey[*profile]("nothing")
			strange = sessions.NewKey[string]("a \"key\"\\ <&> \u2028 \x00 \x7f ä 𝄞")
			noName  = sessions.NewKey[int]("")
		)
		want := profile{"A", []string{"x", "y"}}
		b := newSite(t, store).browser()
		b.use(func(s sessions.Session) {
			require.NoError(t, name.Set(s, "A <b> \u2028"))
			require.NoError(t, person.Set(s, want))
			require.NoError(t, nothing.Set(s, nil))
			require.NoError(t, strange.Set(s, "v"))
			require.NoError(t, noName.Set(s, 5))
			n, err := count.Update(s, func(n int) int { return n + 1 })
			require.NoError(t, err)
			require.Equal(t, 1, n)
			got, ok := person.Get(s)
			require.True(t, ok)
			require.Equal(t, want, got, "as it will be read")
			want.Tags[0] = "changed" // what was set was encoded then
		})
		b.use(func(s sessions.Session) {
			v, ok := name.Get(s)
			require.True(t, ok)
			require.Equal(t, "A <b> \u2028", v)
			p, ok := person.Get(s)
			require.True(t, ok)
			require.Equal(t, profile{"A", []string{"x", "y"}}, p)
			np, ok := nothing.Get(s)
			require.True(t, ok)
			require.Nil(t, np)
			v, ok = strange.Get(s)
			require.True(t, ok)
			require.Equal(t, "v", v)
			n, ok := noName.Get(s)
			require.True(t, ok)
			require.Equal(t, 5, n)
			require.Len(t, keys(s), 6)

			// Another type: a value, but not one of this type.
			_, ok = sessions.NewKey[int]("name").Get(s)
			require.False(t, ok)
			ok, err := s.Get("name", new(int))
			require.True(t, ok)
			require.Error(t, err)
			require.NotContains(t, err.Error(), "A <b>")
			_, err = sessions.NewKey[int]("name").Update(s, func(int) int { return 0 })
			require.Error(t, err)
			require.NotContains(t, err.Error(), "A <b>")
			v, ok = name.Get(s)
			require.True(t, ok)
			require.Equal(t, "A <b> \u2028", v)

			// Flash
			v, ok = strange.Take(s)
			require.True(t, ok)
			require.Equal(t, "v", v)
			_, ok = strange.Take(s)
			require.False(t, ok)
			count.Delete(s)
		})
		b.use(func(s sessions.Session) {
			require.Equal(t, []string{"", "name", "nothing", "person"}, keys(s))
			for key := range s.Keys() { // changing it in the loop is fine, and so is leaving early
				s.Delete(key)
				require.NoError(t, s.Set("new "+key, 1))
			}
			for range s.Keys() {
				break
			}
			require.Len(t, keys(s), 4)
			s.Clear()
			require.Empty(t, keys(s))
			require.NoError(t, name.Set(s, "B"))
		})
		b.use(func(s sessions.Session) {
			require.Equal(t, []string{"name"}, keys(s))
			require.Equal(t, `"B"`, value(t, s, "name"))
		})
	})
}

type secretError struct{}

func (secretError) MarshalJSON() ([]byte, error) { return nil, errors.New("hunter2") }

func TestSession_WhatCannotBeEncoded(t *testing.T) {
	eachStore(t, func(t *testing.T, _ storeCase, store sessions.Store) {
		b := newSite(t, store).browser()
		loop := map[string]any{"secret": "hunter2"}
		loop["self"] = loop
		b.use(func(s sessions.Session) {
			require.NoError(t, s.Set("x", "before"))
			for _, v := range []any{
				make(chan string), func() {}, math.NaN(), math.Inf(1), complex(1, 2), secretError{}, loop,
				json.RawMessage(`{"hunter2":`), json.Number("hunter2"), map[bool]int{true: 1},
			} {
				for _, err := range []error{
					s.Set("x", v),
					s.Update("x", func(json.RawMessage) (any, error) { return v, nil }),
				} {
					require.Error(t, err)
					require.True(t, strings.HasPrefix(err.Error(), "sessions: "), err)
					require.NotContains(t, err.Error(), "hunter2")
					require.NotContains(t, err.Error(), `"x"`)
				}
				require.Equal(t, `"before"`, value(t, s, "x"))
			}
			for _, key := range []string{"\xff", "a\xc3", "\xed\xa0\x80"} {
				err := s.Set(key, 1)
				require.Error(t, err)
				require.NotContains(t, err.Error(), key)
				require.Error(t, s.Update(key, func(json.RawMessage) (any, error) { return 1, nil }))
				s.Delete(key)
				ok, err := s.Get(key, new(int))
				require.NoError(t, err)
				require.False(t, ok)
			}
			require.Equal(t, []string{"x"}, keys(s))
		})
		require.Equal(t, `"before"`, b.get("x"))
	})
}

func TestSession_DeepValues(t *testing.T) {
	// What Set takes must be readable after: encoding/json writes deeper values than it reads.
	eachServerStore(t, func(t *testing.T, store sessions.Store) {
		for _, depth := range []int{9000, 9998, 9999, 10000, 10001, 10002, 12000} {
			b := newSite(t, store).browser()
			var v any = 1
			for range depth {
				v = []any{v}
			}
			b.set("user", 42)
			var refused error
			b.use(func(s sessions.Session) { refused = s.Set("deep", v) })
			b.use(func(s sessions.Session) {
				require.Equal(t, "42", value(t, s, "user"), depth)
				if refused == nil {
					var got any
					ok, err := s.Get("deep", &got)
					require.NoError(t, err, depth)
					require.True(t, ok)
				}
			})
		}
	})
}

func TestSession_DestroyThenSetIsANewSession(t *testing.T) {
	eachStore(t, func(t *testing.T, sc storeCase, store sessions.Store) {
		b := newSite(t, store).browser()
		b.use(func(s sessions.Session) {
			require.NoError(t, s.Set("user", 42))
			s.SetLifetime(time.Hour, true)
		})
		old, oldID := b.cookie(), b.id()
		r := b.use(func(s sessions.Session) {
			require.NoError(t, s.Set("dropped", 1))
			s.Renew()
			s.Destroy()
			require.True(t, s.IsNew())
			require.Empty(t, keys(s))
			require.NotEqual(t, oldID, s.ID())
			require.NoError(t, s.Set("flash", "bye"))
			s.Renew() // of a new session: nothing more to do
		})
		require.Len(t, r.header.Values("Set-Cookie"), 1)
		require.Zero(t, r.setCookie("session").MaxAge, "the new session has the lifetime of any other")
		require.NotEqual(t, old, b.cookie())
		b.use(func(s sessions.Session) {
			require.Equal(t, []string{"flash"}, keys(s))
			require.NotEqual(t, oldID, s.ID())
		})
		if sc.server {
			require.Equal(t, "", b.clone().hold(old).get("user"))
		}
		b.use(func(s sessions.Session) { // twice in one request
			s.Destroy()
			_ = s.Set("a", 1)
			s.Destroy()
		})
		require.Empty(t, b.cookie())
	})
}

func TestSession_RenewTwiceIsOnce(t *testing.T) {
	eachStore(t, func(t *testing.T, _ storeCase, store sessions.Store) {
		site := newSite(t, store)
		b := site.browser()
		r := b.use(func(s sessions.Session) {
			s.Renew()
			require.NoError(t, s.Set("user", 42))
			s.Renew()
		})
		require.Len(t, r.header.Values("Set-Cookie"), 1)
		require.Empty(t, site.events.outcomes()[2:], "none, created: no renewal of what is new")
		id := b.id()
		site.events.reset()
		b.use(func(s sessions.Session) { s.Renew(); s.Renew() })
		require.Equal(t, []string{"load loaded", "renew created"}, site.events.outcomes())
		require.NotEqual(t, id, b.id())
	})
}

func TestSession_IDOfANewSessionStays(t *testing.T) {
	eachStore(t, func(t *testing.T, _ storeCase, store sessions.Store) {
		b := newSite(t, store).browser()
		var id string
		b.use(func(s sessions.Session) {
			id = s.ID()
			require.NoError(t, s.Set("user", 42))
			require.Equal(t, id, s.ID())
		})
		require.Equal(t, id, b.id())
		require.NotContains(t, b.cookie(), id)
	})
}

func TestSession_SetLifetime(t *testing.T) {
	for _, sc := range []storeCase{memoryStore, cookieStore} {
		t.Run(sc.name, func(t *testing.T) {
			const hour, day = time.Hour, 24 * time.Hour
			for _, c := range []struct {
				name       string
				idle       time.Duration
				persistent bool
				left       time.Duration // 0: the session ends
				maxAge     int
			}{
				{"own", 2 * hour, false, 2 * hour, 0},
				{"own, persistent", 2 * hour, true, 2 * hour, 7200},
				{"zero is the default", 0, false, day, 0},
				{"zero, persistent", 0, true, day, 86400},
				{"negative", -1, true, 0, -1},
				{"most negative", math.MinInt64, false, 0, -1},
				{"less than can be kept", time.Millisecond - 1, true, 0, -1},
				{"a nanosecond", 1, false, 0, -1},
				{"half a second more", 90*time.Second + 500*time.Millisecond, true, 90*time.Second + 500*time.Millisecond, 91},
				{"less than a second", 500 * time.Millisecond, true, 500 * time.Millisecond, 1},
				{"a hundred years", 100 * 365 * day, true, 14 * day, 14 * 86400},
				{"longest", math.MaxInt64, true, 14 * day, 14 * 86400},
			} {
				if sc.server && c.maxAge > 0 {
					c.maxAge = 14 * 86400 // until the deadline
				}
				t.Run(c.name, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						b := newSite(t, sc.make(t)).browser()
						b.set("user", 42)
						r := b.use(func(s sessions.Session) {
							s.SetLifetime(c.idle, c.persistent)
							if c.left > 0 {
								require.Equal(t, c.left, time.Until(s.ExpiresAt()))
							}
						})
						if c.maxAge != 0 || sc.name == "cookie" {
							require.Equal(t, c.maxAge, r.setCookie("session").MaxAge)
						} else {
							require.Nil(t, r.setCookie("session"))
						}
						if c.left == 0 {
							require.Empty(t, b.cookie())
							return
						}
						token := b.cookie()
						b.use(func(s sessions.Session) { require.Equal(t, c.left, time.Until(s.ExpiresAt())) })
						time.Sleep(c.left - time.Millisecond)
						b.hold(token) // Max-Age counts in whole seconds
						peek := b.clone()
						require.Equal(t, "42", peek.get("user"))
						time.Sleep(c.left)
						require.Equal(t, "", b.hold(peek.cookie()).get("user"))
					})
				})
			}
		})
	}
}

func TestSession_SetLifetimeBackToDefault(t *testing.T) {
	eachStore(t, func(t *testing.T, sc storeCase, store sessions.Store) {
		b := newSite(t, store).browser()
		r := b.use(func(s sessions.Session) {
			require.NoError(t, s.Set("user", 42))
			s.SetLifetime(48*time.Hour, true)
		})
		want := 48 * 3600
		if sc.server {
			want = 14 * 24 * 3600 // until the deadline
		}
		require.InDelta(t, want, r.setCookie("session").MaxAge, 2)
		r = b.use(func(s sessions.Session) { s.SetLifetime(0, false) })
		require.NotNil(t, r.setCookie("session"), "the browser must be told")
		require.Zero(t, r.setCookie("session").MaxAge)
		b.use(func(s sessions.Session) {
			require.InDelta(t, 24*time.Hour, time.Until(s.ExpiresAt()), float64(time.Minute))
		})
		// The lifetime goes along with a renewal.
		b.use(func(s sessions.Session) { s.SetLifetime(48*time.Hour, true) })
		r = b.use(func(s sessions.Session) { s.Renew() })
		require.InDelta(t, want, r.setCookie("session").MaxAge, 2)
	})
}

// A configuration that was lowered holds for the sessions that are there.
func TestSession_LimitsLoweredLater(t *testing.T) {
	const minute, hour, day = time.Minute, time.Hour, 24 * time.Hour
	for _, sc := range []storeCase{memoryStore, cookieStore} {
		t.Run(sc.name, func(t *testing.T) {
			for _, c := range []struct {
				name           string
				own            time.Duration // SetLifetime
				idle, absolute time.Duration // the new configuration; it was 24h and 14 days
				dead           time.Duration // when it has ended
			}{
				{"unchanged", 0, day, 14 * day, day},
				{"idle", 0, 30 * minute, 14 * day, 30 * minute},
				{"absolute", 0, day, 20 * hour, 20 * hour},
				{"both", 0, 30 * minute, 20 * hour, 30 * minute},
				{"both, absolute first", 0, 30 * minute, 30 * minute, 30 * minute},
				{"idle raised", 0, 48 * hour, 14 * day, day},
				{"custom idle stays", 7 * day, 30 * minute, 14 * day, 7 * day},
				{"custom idle is capped", 7 * day, day, 2 * day, 2 * day},
			} {
				t.Run(c.name, func(t *testing.T) {
					look := func(after time.Duration) (user string) {
						synctest.Test(t, func(t *testing.T) {
							store := sc.make(t)
							b := newSite(t, store).browser()
							b.use(func(s sessions.Session) {
								require.NoError(t, s.Set("user", 42))
								if c.own != 0 {
									s.SetLifetime(c.own, false)
								}
							})
							time.Sleep(after)
							lowered := newSite(t, store, func(cfg *sessions.Config) { cfg.IdleTimeout, cfg.AbsoluteTimeout = c.idle, c.absolute })
							user = lowered.browser().hold(b.cookie()).get("user")
						})
						return user
					}
					require.Equal(t, "42", look(c.dead-time.Millisecond))
					require.Equal(t, "", look(c.dead))
				})
			}
		})
	}
}

func TestSession_UpdateUsesTheSession(t *testing.T) {
	eachStore(t, func(t *testing.T, _ storeCase, store sessions.Store) {
		b := newSite(t, store).browser()
		b.set("base", 10)
		done := make(chan reply, 1)
		go func() {
			done <- b.try(func(s sessions.Session) {
				n := sessions.NewKey[int]("n")
				other := sessions.NewKey[int]("other")
				_, err := n.Update(s, func(old int) int {
					base, _ := sessions.NewKey[int]("base").Get(s)
					for range s.Keys() {
						_ = s.ID()
					}
					// It must have no other effect; if it has one, it must still come to an end.
					_ = s.Set("seen", time.Now().UnixNano())
					_, _ = other.Update(s, func(n int) int { return n + 1 })
					return old + base
				})
				if err != nil {
					t.Error(err)
				}
			})
		}()
		select {
		case r := <-done:
			require.Equal(t, http.StatusOK, r.status)
		case <-time.After(20 * time.Second):
			t.Fatal("Update does not come to an end")
		}
		require.Equal(t, "10", b.get("n"))
	})
}

func TestSession_UpdateError(t *testing.T) {
	eachStore(t, func(t *testing.T, _ storeCase, store sessions.Store) {
		b := newSite(t, store).browser()
		b.set("n", 1)
		mine := errors.New("not today")
		b.use(func(s sessions.Session) {
			err := s.Update("n", func(old json.RawMessage) (any, error) {
				require.Equal(t, "1", string(old))
				return 2, mine
			})
			require.ErrorIs(t, err, mine)
			err = s.Update("absent", func(old json.RawMessage) (any, error) {
				require.Nil(t, old)
				return nil, mine
			})
			require.ErrorIs(t, err, mine)
			require.Equal(t, []string{"n"}, keys(s))
		})
		require.Equal(t, "1", b.get("n"))
	})
}

// An Update runs again on what a parallel request has written, and its error then is that of the commit.
func TestSession_UpdateRunsAgain(t *testing.T) {
	eachServerStore(t, func(t *testing.T, store sessions.Store) {
		b := newSite(t, store).browser()
		b.set("stock", 1)
		take := func(old json.RawMessage) (any, error) {
			var n int
			if err := json.Unmarshal(old, &n); err != nil {
				return nil, err
			}
			if n == 0 {
				return nil, errors.New("sold out")
			}
			return n - 1, nil
		}
		r := b.try(func(s sessions.Session) {
			require.NoError(t, s.Update("stock", take))
			b.clone().use(func(s sessions.Session) { require.NoError(t, s.Update("stock", take)) })
		})
		require.Equal(t, http.StatusServiceUnavailable, r.status)
		require.Equal(t, "0", b.get("stock"))
	})
}

// All kinds of changes, in their order, are made again on top of a parallel one.
func TestSession_MergeKeepsTheOrder(t *testing.T) {
	eachServerStore(t, func(t *testing.T, store sessions.Store) {
		n := sessions.NewKey[int]("n")
		add := func(by int) func(int) int { return func(n int) int { return n + by } }
		for name, c := range map[string]struct {
			mine, theirs func(s sessions.Session)
			want         map[string]string
		}{
			"set after update": {
				func(s sessions.Session) { _, _ = n.Update(s, add(1)); _ = n.Set(s, 100) },
				func(s sessions.Session) { _ = n.Set(s, 50) }, map[string]string{"n": "100", "x": "1"}},
			"update after set": {
				func(s sessions.Session) { _ = n.Set(s, 100); _, _ = n.Update(s, add(1)) },
				func(s sessions.Session) { _ = n.Set(s, 50) }, map[string]string{"n": "101", "x": "1"}},
			"two updates": {
				func(s sessions.Session) { _, _ = n.Update(s, add(1)); _, _ = n.Update(s, add(2)) },
				func(s sessions.Session) { _ = n.Set(s, 50) }, map[string]string{"n": "53", "x": "1"}},
			"delete": {
				func(s sessions.Session) { n.Delete(s) },
				func(s sessions.Session) { _ = n.Set(s, 50) }, map[string]string{"x": "1"}},
			"clear, then set": {
				func(s sessions.Session) { _, _ = n.Update(s, add(1)); s.Clear(); _ = s.Set("y", 2) },
				func(s sessions.Session) { _ = s.Set("z", 3) }, map[string]string{"y": "2"}},
			"theirs is a clear": {
				func(s sessions.Session) { _, _ = n.Update(s, add(1)) },
				func(s sessions.Session) { s.Clear() }, map[string]string{"n": "1"}},
			"theirs renews nothing": {
				func(s sessions.Session) { _, _ = n.Update(s, add(1)) },
				func(s sessions.Session) { s.SetLifetime(time.Hour, true) }, map[string]string{"n": "6", "x": "1"}},
			"set to what it was": { // a change of theirs to a key that we left as it was stays
				func(s sessions.Session) { _ = s.Set("x", 1) },
				func(s sessions.Session) { _ = s.Set("x", 7) }, map[string]string{"n": "5", "x": "7"}},
		} {
			t.Run(name, func(t *testing.T) {
				b := newSite(t, store).browser()
				b.use(func(s sessions.Session) {
					require.NoError(t, n.Set(s, 5))
					require.NoError(t, s.Set("x", 1))
				})
				b.use(func(s sessions.Session) {
					c.mine(s)
					b.clone().use(c.theirs)
				})
				got := map[string]string{}
				b.use(func(s sessions.Session) {
					for key := range s.Keys() {
						got[key] = value(t, s, key)
					}
				})
				require.Equal(t, c.want, got)
			})
		}
	})
}

func TestSession_TooLargeForACookie(t *testing.T) {
	site := newSite(t, cookieStore.make(t))
	b := site.browser()
	b.set("user", 42)
	token := b.cookie()
	var failed error
	big := newSite(t, cookieStore.make(t), func(c *sessions.Config) {
		c.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, err error) {
			failed = err
			w.WriteHeader(http.StatusInsufficientStorage)
		}
	})
	for _, tab := range []*browser{big.browser(), big.browser().hold(token)} {
		big.events.reset()
		r := tab.do(func(w http.ResponseWriter, r *http.Request) {
			s, err := sessions.Get(r.Context())
			require.NoError(t, err)
			require.NoError(t, s.Set("big", strings.Repeat("x", 5000)))
			w.Header().Set("X-Handler", "1")
			_, err = w.Write([]byte("page"))
			require.ErrorIs(t, err, sessions.ErrTooLarge)
		})
		require.Equal(t, http.StatusInsufficientStorage, r.status)
		require.Empty(t, r.header.Values("Set-Cookie"))
		require.Empty(t, r.header.Values("X-Handler"))
		require.Empty(t, r.body)
		require.ErrorIs(t, failed, sessions.ErrTooLarge)
		require.Regexp(t, `\b\d{4} bytes\b.*\b4096\b`, failed.Error())
		require.NotContains(t, failed.Error(), "xxx")
		require.Len(t, big.events.with(sessions.OutcomeTooLarge), 1)
	}
	// The largest that fits is sent, one byte more is not; what is sent a browser keeps.
	fits := 0
	for n := 1500; n < 3100; n++ {
		r := site.browser().try(func(s sessions.Session) { _ = s.Set("big", strings.Repeat("x", n)) })
		if r.status == http.StatusOK {
			c := r.setCookie("session")
			require.LessOrEqual(t, len(c.Name)+len(c.Value), 4096)
			fits = n
		} else {
			require.Equal(t, http.StatusServiceUnavailable, r.status)
			require.Equal(t, n-1, fits, "there is one boundary")
			break
		}
	}
	require.NotZero(t, fits)
	// It is read back at that size.
	edge := site.browser()
	edge.set("big", strings.Repeat("x", fits))
	require.Len(t, edge.get("big"), fits+2)
}

func TestSession_LateChanges(t *testing.T) {
	eachStore(t, func(t *testing.T, sc storeCase, store sessions.Store) {
		site := newSite(t, store)
		b := site.browser()
		late := func(b *browser, fn func(s sessions.Session)) reply {
			return b.do(func(w http.ResponseWriter, r *http.Request) {
				_, _ = w.Write([]byte("page"))
				s, err := sessions.Get(r.Context())
				require.NoError(t, err)
				fn(s)
			})
		}
		r := late(b, func(s sessions.Session) { _ = s.Set("user", 1) })
		require.Equal(t, "page", r.body)
		require.Len(t, site.events.with(sessions.OutcomeTooLate), 1, "a new session")
		require.Empty(t, site.events.with(sessions.OutcomeCreated))

		b.set("user", 42)
		for name, fn := range map[string]func(s sessions.Session){
			"renew":    func(s sessions.Session) { s.Renew() },
			"lifetime": func(s sessions.Session) { s.SetLifetime(48*time.Hour, true) },
		} {
			site.events.reset()
			late(b, fn)
			require.Len(t, site.events.with(sessions.OutcomeTooLate), 1, name)
			require.Equal(t, "42", b.get("user"))
		}
		site.events.reset()
		late(b, func(s sessions.Session) { _ = s.Set("user", 43) })
		if sc.server {
			require.Empty(t, site.events.with(sessions.OutcomeTooLate))
			require.Equal(t, "43", b.get("user"))
		} else {
			require.Len(t, site.events.with(sessions.OutcomeTooLate), 1)
			require.Equal(t, "42", b.get("user"))
		}
		site.events.reset()
		late(b, func(s sessions.Session) { s.Destroy(); _ = s.Set("user", 44) })
		require.NotEmpty(t, site.events.with(sessions.OutcomeTooLate))
		if sc.server {
			require.Equal(t, "", b.get("user"))
		}
	})
}

func TestSession_ConcurrentUse(t *testing.T) {
	eachStore(t, func(t *testing.T, _ storeCase, store sessions.Store) {
		b := newSite(t, store).overNetwork()
		b.set("start", 0)
		for _, first := range []bool{true, false} { // before and beside the first byte
			r := b.do(func(w http.ResponseWriter, r *http.Request) {
				n := sessions.NewKey[int]("n")
				var wg sync.WaitGroup
				for i := range 8 {
					wg.Go(func() {
						s, err := sessions.Get(r.Context())
						if err != nil {
							t.Error(err)
							return
						}
						for j := range 20 {
							_, _ = n.Update(s, func(n int) int { return n + 1 })
							_ = s.Set(fmt.Sprint(i), j)
							_, _ = s.Get("n", new(int))
							_, _, _, _ = s.ID(), s.IsNew(), s.CreatedAt(), s.ExpiresAt()
							for range s.Keys() {
							}
							switch {
							case i == 0 && j == 5:
								s.Renew()
							case i == 1 && j == 5:
								s.SetLifetime(time.Hour, false)
							case i == 2:
								s.Delete(fmt.Sprint(i))
							}
						}
					})
				}
				if first {
					wg.Wait()
				}
				_, _ = w.Write([]byte("page"))
				wg.Wait()
			})
			require.NoError(t, r.err)
			require.Equal(t, http.StatusOK, r.status)
		}
	})
}

func TestSession_OutsideOfTheMiddleware(t *testing.T) {
	_, err := sessions.Get(context.Background())
	require.ErrorIs(t, err, sessions.ErrNoMiddleware)
	site := newSite(t, memoryStore.make(t))
	_, err = site.mgr.Get(context.Background())
	require.ErrorIs(t, err, sessions.ErrNoMiddleware)
	other := newSite(t, memoryStore.make(t))
	site.browser().do(func(w http.ResponseWriter, r *http.Request) {
		_, err := other.mgr.Get(r.Context())
		require.ErrorIs(t, err, sessions.ErrNoMiddleware)
	})
}

// Other goroutines of the handler may change the session while it is being written: that is saved by the next commit.
func TestSession_ChangesDuringTheCommit(t *testing.T) {
	eachServerStore(t, func(t *testing.T, store sessions.Store) {
		n := sessions.NewKey[int]("n")
		add := func(s sessions.Session) {
			_, err := n.Update(s, func(n int) int { return n + 1 })
			require.NoError(t, err)
		}
		for name, c := range map[string]struct {
			first, during func(s sessions.Session)
			want          map[string]string // nil: the session has ended
		}{
			"changes": {add, func(s sessions.Session) { add(s); _ = s.Set("during", 2) }, map[string]string{"n": "3", "during": "2"}},
			"changes during a renewal": {func(s sessions.Session) { s.Renew(); add(s) },
				func(s sessions.Session) { add(s); _ = s.Set("during", 2) }, map[string]string{"n": "3", "during": "2"}},
			"delete":                   {add, func(s sessions.Session) { n.Delete(s) }, map[string]string{}},
			"renewal":                  {add, func(s sessions.Session) { s.Renew() }, map[string]string{"n": "2"}},
			"destroy":                  {add, func(s sessions.Session) { s.Destroy() }, nil},
			"destroy, then set":        {add, func(s sessions.Session) { s.Destroy(); _ = s.Set("x", 1) }, nil},
			"destroy during a renewal": {func(s sessions.Session) { s.Renew() }, func(s sessions.Session) { s.Destroy() }, nil},
		} {
			t.Run(name, func(t *testing.T) {
				spy := &spyStore{Store: store}
				b := newSite(t, spy).browser()
				b.use(func(s sessions.Session) { _ = n.Set(s, 1) })
				old := b.cookie()
				r := b.try(func(s sessions.Session) {
					c.first(s)
					spy.before(func(_ context.Context, op string, _ *sessions.Record) error {
						spy.before(nil)
						require.Equal(t, "save", op)
						c.during(s)
						return nil
					})
				})
				require.Equal(t, http.StatusOK, r.status)
				if c.want == nil {
					for _, token := range []string{old, b.cookie()} {
						b.raw(func(s sessions.Session) { require.True(t, s.IsNew()) }, "session="+token)
					}
					return
				}
				got := map[string]string{}
				b.use(func(s sessions.Session) {
					for key := range s.Keys() {
						got[key] = value(t, s, key)
					}
				})
				require.Equal(t, c.want, got)
			})
		}
	})
}

// A store of somebody else's may make tokens of any length: the manager looks as well.
type longTokens struct{ sessions.Store }

func (s longTokens) Save(ctx context.Context, name string, rec *sessions.Record, base int64) (string, error) {
	token, err := s.Store.Save(ctx, name, rec, base)
	return token + strings.Repeat("A", 4096-len("session")-len(token)+1), err
}

func TestSession_TooLargeFromAnyStore(t *testing.T) {
	site := newSite(t, longTokens{sessiontest.NewMemoryStore()})
	r := site.browser().try(func(s sessions.Session) { _ = s.Set("user", 42) })
	require.Equal(t, http.StatusServiceUnavailable, r.status)
	require.Empty(t, r.header.Values("Set-Cookie"))
	tooLarge := site.events.with(sessions.OutcomeTooLarge)
	require.Len(t, tooLarge, 1)
	require.ErrorIs(t, tooLarge[0].Err, sessions.ErrTooLarge)
	require.Contains(t, tooLarge[0].Err.Error(), "4097 bytes")
}

func TestSession_AbsoluteLoweredForASessionInUse(t *testing.T) {
	for _, sc := range []storeCase{memoryStore, cookieStore} {
		t.Run(sc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := sc.make(t)
				b := newSite(t, store).browser()
				b.set("user", 42)
				time.Sleep(15 * time.Hour)
				b.use(noop)
				time.Sleep(15 * time.Hour)
				b.use(noop)
				lowered := newSite(t, store, func(c *sessions.Config) { c.AbsoluteTimeout = 31 * time.Hour })
				lowered.browser().hold(b.cookie()).use(func(s sessions.Session) {
					require.Equal(t, "42", value(t, s, "user"))
					require.Equal(t, time.Hour, time.Until(s.ExpiresAt()))
				})
				lowered = newSite(t, store, func(c *sessions.Config) { c.AbsoluteTimeout = 30 * time.Hour })
				require.Equal(t, "", lowered.browser().hold(b.cookie()).get("user"))
			})
		})
	}
}

// limitedStore keeps no record for longer than an hour, as a Redis store with such a TTL.
type limitedStore struct{ sessions.Store }

func (limitedStore) MaxTTL() time.Duration { return time.Hour }

func TestSession_TTLLoweredBelowItsOwnLifetime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := sessiontest.NewMemoryStore()
		b := newSite(t, store).browser()
		b.use(func(s sessions.Session) {
			require.NoError(t, s.Set("user", 42))
			s.SetLifetime(7*24*time.Hour, true)
		})
		lowered := newSite(t, limitedStore{store}).browser().hold(b.cookie())
		for range 10 {
			time.Sleep(20 * time.Minute)
			lowered.use(func(s sessions.Session) {
				require.Equal(t, "42", value(t, s, "user"))
				require.LessOrEqual(t, time.Until(s.ExpiresAt()), time.Hour)
			})
		}
		time.Sleep(time.Hour)
		require.Equal(t, "", lowered.get("user"))
	})
}

// A value whose type has changed between two deploys is no login any more. That must leave a trace.
func TestP13_ValueThatDoesNotFit(t *testing.T) {
	const secret = "the secret value"
	for name, store := range map[string]sessions.Store{"memory": sessiontest.NewMemoryStore(), "cookie": cookieStoreWith(t, secretA)} {
		t.Run(name, func(t *testing.T) {
			site := newSite(t, store)
			b := site.browser()
			b.use(func(s sessions.Session) {
				require.NoError(t, s.Set("user_id", secret))
				require.NoError(t, s.Set("cart_id", secret))
				require.NoError(t, s.Set("visits", 1))
			})
			id := b.id()
			misfits := func() []sessions.Event {
				defer site.events.reset()
				return site.events.with(sessions.OutcomeUndecodable)
			}

			userID, cartID, visits := sessions.NewKey[int64]("user_id"), sessions.NewKey[int64]("cart_id"), sessions.NewKey[int]("visits")
			b.use(func(s sessions.Session) {
				for range 3 {
					_, ok := userID.Get(s)
					require.False(t, ok)
					_, ok = cartID.Get(s)
					require.False(t, ok)
				}
				n, ok := visits.Get(s)
				require.True(t, ok)
				require.Equal(t, 1, n)
				_, ok = sessions.NewKey[int64]("nothing").Get(s)
				require.False(t, ok, "which is no misfit")
			})
			got := misfits()
			require.Len(t, got, 1, "one event per request and type")
			require.Equal(t, sessions.EventReject, got[0].Kind)
			require.Equal(t, id, got[0].SessionID)
			require.Contains(t, got[0].Detail, "int64")
			require.NoError(t, got[0].Err)
			lines := site.log.lines("undecodable")
			require.Len(t, lines, 1)
			require.Contains(t, lines[0], "level=WARN")
			require.Contains(t, lines[0], "session="+id)
			require.Contains(t, lines[0], "int64")
			for _, leak := range []string{secret, "user_id", "cart_id"} {
				require.NotContains(t, fmt.Sprintf("%v %+v", lines, got), leak)
			}

			b.use(func(s sessions.Session) {
				var into []string
				_, err := s.Get("user_id", &into)
				require.Error(t, err)
				_, ok := userID.Get(s)
				require.False(t, ok)
			})
			got = misfits()
			require.Len(t, got, 2, "another request, and another type")
			require.Contains(t, got[0].Detail, "[]string")
			require.NotContains(t, got[0].Detail, "*[]string", "the type of the key, not of its pointer")

			b.use(func(s sessions.Session) {
				var wg sync.WaitGroup
				for range 20 {
					wg.Go(func() { userID.Get(s) })
				}
				wg.Wait()
			})
			require.Len(t, misfits(), 1)
		})
	}
}

// An Update whose function sets its own key would never end: each run finds another value than the one that it was
// given.
func TestUpdateOfItsOwnKey(t *testing.T) {
	b := newSite(t, sessiontest.NewMemoryStore()).browser()
	count := sessions.NewKey[int]("count")
	b.set("count", 0)
	b.use(func(s sessions.Session) {
		runs := 0
		err := s.Update("count", func(json.RawMessage) (any, error) {
			if runs++; runs > 5000 {
				return nil, errors.New("it does not end")
			}
			return -1, count.Set(s, runs)
		})
		require.EqualError(t, err, "sessions: Update: the value changed 1000 times while the function ran: let the function return the new value instead of setting its own key")
		require.Equal(t, 1000, runs)

		n, err := count.Update(s, func(n int) int { return n + 1 })
		require.NoError(t, err, "the session is as good as before")
		require.Equal(t, 1001, n)
	})
	require.Equal(t, "1001", b.get("count"))

	b.use(func(s sessions.Session) { // one that sets what stays the same ends by itself
		n, err := count.Update(s, func(n int) int { _ = count.Set(s, 7); return n + 1 })
		require.NoError(t, err)
		require.Equal(t, 8, n)
	})
}

// Many goroutines of one handler update one key: none of them gives up.
func TestUpdateInManyGoroutines(t *testing.T) {
	b := newSite(t, sessiontest.NewMemoryStore()).browser()
	count := sessions.NewKey[int]("count")
	b.use(func(s sessions.Session) {
		var wg sync.WaitGroup
		for range 200 {
			wg.Go(func() {
				_, err := count.Update(s, func(n int) int { return n + 1 })
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	})
	require.Equal(t, "200", b.get("count"))
}

func TestP03_AbsoluteDeadline_B17(t *testing.T) {
	for _, sc := range []storeCase{memoryStore, cookieStore} {
		t.Run(sc.name, func(t *testing.T) {
			for _, step := range []time.Duration{time.Minute, 5 * time.Minute, 7 * time.Minute, 11*time.Minute + time.Second} {
				t.Run(step.String(), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						const absolute = 2 * time.Hour
						b := newSite(t, sc.make(t), func(c *sessions.Config) {
							c.IdleTimeout, c.AbsoluteTimeout = 30*time.Minute, absolute
						}).browser()
						begin := time.Now().Truncate(time.Millisecond)
						b.set("user", 42)
						for time.Since(begin)+step < absolute {
							time.Sleep(step)
							require.Equal(t, "42", b.get("user"), "after %v", time.Since(begin))
							b.use(func(s sessions.Session) { require.False(t, s.ExpiresAt().After(begin.Add(absolute))) })
						}
						time.Sleep(absolute - time.Since(begin) - time.Millisecond)
						require.Equal(t, "42", b.get("user"), "used within the idle timeout, and the deadline is still to come")
						time.Sleep(time.Millisecond)
						require.Equal(t, "", b.get("user"))
					})
				})
			}
		})
	}
}

func TestP03_OwnLifetime_B19(t *testing.T) {
	for _, sc := range []storeCase{memoryStore, cookieStore} {
		t.Run(sc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				site := newSite(t, sc.make(t), func(c *sessions.Config) { c.IdleTimeout = time.Hour })
				plain, remembered := site.browser(), site.browser()
				plain.set("user", 1)
				r := remembered.use(func(s sessions.Session) {
					require.NoError(t, s.Set("user", 2))
					s.SetLifetime(7*24*time.Hour, true)
				})
				const day = 24 * 60 * 60
				client, set := !sc.server, r.setCookie("session")
				sets := func(r reply, maxAge int) {
					t.Helper()
					if client { // the cookie slides along
						require.Equal(t, maxAge, r.setCookie("session").MaxAge)
					} else {
						require.Nil(t, r.setCookie("session"), "it lives as long as the session can")
					}
				}
				if client {
					require.Equal(t, 7*day, set.MaxAge)
				} else {
					require.Equal(t, 14*day, set.MaxAge)
				}
				for range 5 {
					time.Sleep(2 * time.Hour)
					require.Equal(t, "", plain.get("user"))
					require.Equal(t, "2", remembered.get("user"))
				}
				sets(remembered.set("user", 3), 7*day)
				time.Sleep(3 * 24 * time.Hour)
				sets(remembered.use(noop), 7*day)
				time.Sleep(7*24*time.Hour - time.Second)
				// The deadline of fourteen days is nearer than seven more.
				sets(remembered.use(noop), 4*day-10*60*60+1)
				require.Equal(t, "3", remembered.get("user"))
			})
		})
	}
}

// Printing what a handler has access to shows neither token nor values.
func TestP11_PrintingASessionOrItsContext(t *testing.T) {
	mgr, err := sessions.New(sessions.Config{Store: cookieStoreWith(t, secretA)})
	require.NoError(t, err)
	b := newSite(t, cookieStoreWith(t, secretA)).browser()
	b.set("secret_key", "secret_value")
	req := httptest.NewRequest("GET", "/", nil)
	req.Header.Set("Cookie", "session="+b.cookie())
	mgr.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s, err := sessions.Get(r.Context())
		require.NoError(t, err)
		require.NoError(t, s.Set("secret_key2", "secret_value2"))
		ctx := context.WithValue(r.Context(), secretsKey{}, 1)
		type inside struct { // where fmt cannot ask for a Formatter
			s   sessions.Session
			ctx context.Context
		}
		for _, v := range []any{s, r.Context(), ctx, inside{s: s}, &inside{ctx: r.Context()}, []any{inside{s, ctx}}} {
			for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
				text := fmt.Sprintf(verb, v)
				require.NotContains(t, text, "secret_", verb)
				require.NotContains(t, text, b.cookie(), verb)
			}
		}
		require.Equal(t, "session "+s.ID(), fmt.Sprint(s))
	})).ServeHTTP(httptest.NewRecorder(), req)
}

type secretsKey struct{}

type textOf string

func (t textOf) MarshalText() ([]byte, error) { return []byte(t), nil }

// What JSON takes without an error and does not give back is an error of Set, and changes nothing.
func TestP23_SetRefusesWhatJSONChanges(t *testing.T) {
	const bad = "\x9f\x86"
	type inner struct{ S string }
	for name, value := range map[string]any{
		"a string":                bad,
		"the end of a string":     "ok\xff",
		"half a surrogate":        "\xed\xa0\x80",
		"in a slice":              []string{"ok", bad},
		"in a map":                map[string]any{"k": bad},
		"a key of a map":          map[string]int{bad: 1},
		"in a struct":             struct{ A inner }{inner{bad}},
		"embedded":                struct{ inner }{inner{bad}},
		"behind a pointer":        &inner{bad},
		"behind an interface":     []any{any(inner{bad})},
		"a text":                  textOf(bad),
		"a text as a key":         map[textOf]int{bad: 1},
		"raw JSON":                json.RawMessage(`"` + bad + `"`),
		"beside a replacement":    []string{"\ufffd", bad},
		"after an escaped escape": `\ufffd` + bad,
	} {
		newSite(t, memoryStore.make(t)).browser().use(func(s sessions.Session) {
			err := s.Set("k", value)
			require.Error(t, err, name)
			require.NotContains(t, err.Error(), bad, name)
			require.Error(t, s.Update("k", func(json.RawMessage) (any, error) { return value, nil }), name)
			require.Empty(t, keys(s), name)
		})
	}
	for name, value := range map[string]any{
		"a replacement character":          "\ufffd",
		"a replacement character, escaped": json.RawMessage(`"\ufffd"`),
		"the text of one":                  `\ufffd`,
		"bytes":                            []byte(bad),
		"a field that is not encoded":      struct{ s string }{bad},
		"a field that is left out": struct {
			S string `json:"-"`
			T string
		}{bad, "\\ufffd"},
	} {
		newSite(t, memoryStore.make(t)).browser().use(func(s sessions.Session) { require.NoError(t, s.Set("k", value), name) })
	}
}

// A lowered idle timeout holds for a session whose expiry is its deadline as well: nobody knows when it was last used, so
// the timeout begins at the first request that the new configuration sees.
func TestP03_ALoweredTimeoutHoldsAtTheDeadline(t *testing.T) {
	for _, sc := range []storeCase{memoryStore, cookieStore} {
		t.Run(sc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := sc.make(t)
				at := func(idle time.Duration) *site {
					return newSite(t, store, func(cfg *sessions.Config) { cfg.IdleTimeout, cfg.AbsoluteTimeout = idle, 48*time.Hour })
				}
				b := at(24 * time.Hour).browser()
				b.set("user", 42)
				time.Sleep(23 * time.Hour)
				require.Equal(t, "42", b.get("user"))
				time.Sleep(23 * time.Hour)
				require.Equal(t, "42", b.get("user")) // two hours before the deadline
				lowered := at(10 * time.Minute)
				require.Equal(t, "42", b.on(lowered).get("user"), "a session in use goes on")
				time.Sleep(9 * time.Minute)
				require.Equal(t, "42", b.on(lowered).get("user"))
				time.Sleep(10 * time.Minute)
				require.Equal(t, "", b.on(lowered).get("user"), "one that is left alone ends")
			})
		})
	}
}

// An expiry that is further away than the idle timeout, from a clock that was ahead, is brought back by the next use.
func TestP03_AnExpiryTooFarAheadSlides(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memoryStore.make(t)
		m, err := sessions.New(sessions.Config{Store: store, IdleTimeout: time.Hour})
		require.NoError(t, err)
		sessions.SetClock(m, nil, func() time.Time { return time.Now().Add(10 * time.Hour) })
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		w := httptest.NewRecorder()
		m.Wrap(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			s, err := sessions.Get(r.Context())
			require.NoError(t, err)
			require.NoError(t, s.Set("user", 42))
		})).ServeHTTP(w, r)
		s := newSite(t, store, func(cfg *sessions.Config) { cfg.IdleTimeout = time.Hour })
		b := s.browser().hold(w.Result().Cookies()[0].Value)
		require.Equal(t, "42", b.get("user"))
		time.Sleep(time.Hour)
		require.Equal(t, "", b.get("user"))
	})
}

// lifetimeStores are the kinds of stores whose sessions must outlive a request that began while they were alive. They work
// in synctest.
func lifetimeStores(t *testing.T, test func(t *testing.T, server bool, store sessions.Store)) {
	for _, sc := range []storeCase{memoryStore, cookieStore} {
		t.Run(sc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { test(t, sc.server, sc.make(t)) })
		})
	}
	for _, cookie := range []bool{true, false} {
		for _, phase := range dualPhases {
			t.Run(fmt.Sprintf("%v, from a cookie: %v", phase, cookie), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					test(t, !cookie || phase >= sessions.DualReadNew, newPair(t, cookie, sessiontest.NewMemoryStore()).dual(t, phase))
				})
			})
		}
	}
}

// Use counts from when a request begins: one that begins while its session is alive, and runs across the end of the idle
// timeout, finds the session alive when it commits, and leaves it so.
func TestP03_ARequestRunsAcrossTheIdleTimeout(t *testing.T) {
	const idle = time.Hour
	for role, fn := range map[string]func(sessions.Session){
		"reads":    noop,
		"writes":   func(s sessions.Session) { addCount(s) },
		"renews":   func(s sessions.Session) { s.Renew(); addCount(s) },
		"destroys": func(s sessions.Session) { s.Destroy() },
	} {
		for _, c := range []struct{ away, runs time.Duration }{
			{idle * 8 / 10, idle * 4 / 10},
			{idle * 55 / 100, idle * 99 / 100},
			{idle - time.Millisecond, idle / 2},
			{idle / 2, idle/2 - time.Millisecond},
		} {
			t.Run(fmt.Sprintf("%s, away for %v, runs for %v", role, c.away, c.runs), func(t *testing.T) {
				lifetimeStores(t, func(t *testing.T, server bool, store sessions.Store) {
					b := newSite(t, store, func(cfg *sessions.Config) { cfg.IdleTimeout = idle }).browser()
					b.login("alice")
					old := b.cookie()
					time.Sleep(c.away)
					r := b.try(func(s sessions.Session) {
						user, _ := dualUser.Get(s)
						require.Equal(t, "alice", user)
						fn(s)
						time.Sleep(c.runs)
						if server && role == "reads" {
							require.Equal(t, "alice", b.clone().user(), "for other requests as well")
						}
					})
					require.Equal(t, http.StatusOK, r.status, r.body)
					time.Sleep(idle - time.Second)
					if role == "destroys" {
						require.Empty(t, b.user())
						if server {
							require.Empty(t, b.clone().hold(old).user())
						}
						return
					}
					require.Equal(t, "alice", b.user())
					if role != "reads" {
						require.Equal(t, 1, b.count())
					}
				})
			})
		}
	}
}

// On a real Redis, the key is still there.
func TestP03_ARequestRunsAcrossTheIdleTimeoutOnRedis(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t).Client(t)
	checkTTLs(t, rdb)
	const idle = 3 * time.Second
	s := newSite(t, redisStoreOver(t, rdb), func(cfg *sessions.Config) { cfg.IdleTimeout = idle })
	for role, fn := range map[string]func(sessions.Session){"reads": noop, "writes": addCount, "renews": sessions.Session.Renew} {
		t.Run(role, func(t *testing.T) {
			t.Parallel()
			for {
				b := s.browser()
				began := time.Now()
				b.login("alice")
				used := time.Now()
				require.Eventually(t, func() bool { return time.Since(used) > idle*6/10 }, waitLimit, 5*time.Millisecond)
				asked := time.Now()
				r := b.try(func(s sessions.Session) {
					fn(s)
					require.Eventually(t, func() bool { return time.Since(used) > idle }, waitLimit, 5*time.Millisecond)
				})
				user := b.user()
				if asked.Sub(began) > idle*9/10 || time.Since(asked) > idle*9/10 {
					continue // the machine stood still
				}
				require.Equal(t, http.StatusOK, r.status, r.body)
				require.Equal(t, "alice", user)
				return
			}
		})
	}
}

// A touch at the load takes the place of the one at the commit, and only a request that begins in the second half of the
// idle timeout makes one.
func TestP03_TouchesAtTheLoad(t *testing.T) {
	const idle = 8 * time.Hour
	for _, c := range []struct {
		away, runs     time.Duration
		fn             func(sessions.Session)
		touches, saves int64
	}{
		{idle / 2, 0, noop, 1, 0},
		{idle / 2, 0, addCount, 0, 1},
		{idle/2 + time.Millisecond, 0, noop, 1, 0},
		{idle/2 + time.Millisecond, 0, addCount, 1, 1},
		{idle/2 + time.Millisecond, idle/8 - time.Millisecond, noop, 1, 0},
		{idle/2 + time.Millisecond, idle / 8, noop, 2, 0},
		{idle - time.Millisecond, 0, func(s sessions.Session) { s.Renew() }, 1, 2},
		{idle - time.Millisecond, 0, func(s sessions.Session) { s.Destroy() }, 1, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			spy := &spyStore{Store: sessiontest.NewMemoryStore()}
			s := newSite(t, spy, func(cfg *sessions.Config) { cfg.IdleTimeout = idle })
			b := s.browser()
			b.set("user", 42)
			spy.reset()
			s.events.reset()
			time.Sleep(c.away)
			b.use(func(s sessions.Session) {
				c.fn(s)
				time.Sleep(c.runs)
			})
			require.Equal(t, c.touches, spy.touches.Load(), "%+v", c)
			require.Equal(t, c.saves, spy.saves.Load(), "%+v", c)
			require.Len(t, s.events.with(sessions.OutcomeTouched), int(c.touches))
			b.use(noop)
			require.Equal(t, c.touches, spy.touches.Load(), "%+v", c)
		})
	}
}

// A session that no touch can extend is not touched, however near its end is.
func TestP03_NoTouchAtTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		spy := &spyStore{Store: sessiontest.NewMemoryStore()}
		b := newSite(t, spy, func(cfg *sessions.Config) { cfg.IdleTimeout, cfg.AbsoluteTimeout = time.Hour, 90*time.Minute }).browser()
		b.set("user", 42)
		time.Sleep(45 * time.Minute)
		b.use(noop)
		require.EqualValues(t, 1, spy.touches.Load())
		for range 44 {
			time.Sleep(time.Minute)
			require.Equal(t, "42", b.get("user"))
		}
		require.EqualValues(t, 1, spy.touches.Load())
	})
}

// A short lifetime of one session counts, not that of all.
func TestP03_AShortLifetimeRunsAcrossItsEnd(t *testing.T) {
	lifetimeStores(t, func(t *testing.T, _ bool, store sessions.Store) {
		b := newSite(t, store).browser()
		b.use(func(s sessions.Session) {
			s.SetLifetime(time.Minute, true)
			_ = dualUser.Set(s, "alice")
		})
		for range 5 {
			time.Sleep(48 * time.Second)
			b.use(func(s sessions.Session) {
				addCount(s)
				time.Sleep(24 * time.Second)
			})
		}
		require.Equal(t, "alice", b.user())
		require.Equal(t, 5, b.count())
	})
}

// A touch at the load that fails is no reason to fail, and is not tried again: the store may be down. If it was only that
// the caller had given up, the commit makes it.
func TestP14_ATouchAtTheLoadThatFails(t *testing.T) {
	const idle = time.Hour
	begin := func(t *testing.T) (*spyStore, *site, *browser) {
		spy := &spyStore{Store: sessiontest.NewMemoryStore()}
		s := newSite(t, spy, func(cfg *sessions.Config) { cfg.IdleTimeout, cfg.CommitTimeout = idle, 5*time.Second })
		b := s.browser()
		b.login("alice")
		time.Sleep(idle * 8 / 10)
		return spy, s, b
	}
	t.Run("the store is down", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			spy, s, b := begin(t)
			spy.fail("touch")
			require.Equal(t, "alice", b.user())
			require.EqualValues(t, 1, spy.touches.Load())
			require.Len(t, s.events.with(sessions.OutcomeError), 1)
			b.use(addCount)
			require.Equal(t, 1, b.count(), "a change extends it")
		})
	})
	t.Run("the store hangs", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			spy, _, b := begin(t)
			spy.before(func(ctx context.Context, op string, _ *sessions.Record) error {
				if op != "touch" {
					return nil
				}
				<-ctx.Done()
				return ctx.Err()
			})
			start := time.Now()
			require.Equal(t, "alice", b.user())
			require.Equal(t, 5*time.Second, time.Since(start), "CommitTimeout")
			require.EqualValues(t, 1, spy.touches.Load())
		})
	})
	t.Run("the caller gives up", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			spy, s, b := begin(t)
			spy.before(func(ctx context.Context, op string, _ *sessions.Record) error {
				if op == "touch" && spy.touches.Load() == 1 {
					<-ctx.Done()
					return ctx.Err()
				}
				return nil
			})
			r := b.do(func(w http.ResponseWriter, r *http.Request) {
				ctx, cancel := context.WithTimeout(r.Context(), time.Second)
				defer cancel()
				start := time.Now()
				s, err := sessions.Get(ctx)
				require.NoError(t, err, "it was loaded")
				require.Equal(t, time.Second, time.Since(start))
				user, _ := dualUser.Get(s)
				require.Equal(t, "alice", user)
			})
			require.Equal(t, http.StatusOK, r.status)
			require.EqualValues(t, 2, spy.touches.Load())
			require.Len(t, s.events.with(sessions.OutcomeTouched), 1)
		})
	})
	t.Run("it was ended meanwhile", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			spy, s, b := begin(t)
			other := b.clone()
			spy.before(func(_ context.Context, op string, _ *sessions.Record) error {
				if op == "touch" {
					spy.before(nil)
					other.use(func(s sessions.Session) { s.Destroy() })
				}
				return nil
			})
			r := b.use(noop)
			require.Nil(t, r.setCookie("session"))
			require.EqualValues(t, 2, spy.touches.Load(), "of each request one")
			require.NotEmpty(t, s.events.with(sessions.OutcomeGone))
			require.Empty(t, b.user())
		})
	})
}

// A logout while a request runs that has touched its session at the load: the client gets no cookie of it again, neither
// that of the old session nor a new seal of it.
func TestP08_LogoutAfterATouchAtTheLoad(t *testing.T) {
	lifetimeStores(t, func(t *testing.T, server bool, store sessions.Store) {
		if !server {
			t.Skip("the client holds the state: this is a stated limit of a sealed cookie")
		}
		for _, persistent := range []bool{false, true} {
			for end, fn := range map[string]func(sessions.Session){"destroyed": sessions.Session.Destroy, "renewed": sessions.Session.Renew} {
				b := newSite(t, store, func(cfg *sessions.Config) { cfg.IdleTimeout = time.Hour }).browser()
				b.use(func(s sessions.Session) {
					s.SetLifetime(0, persistent)
					_ = dualUser.Set(s, "alice")
				})
				other := b.clone()
				time.Sleep(50 * time.Minute)
				r := b.use(func(s sessions.Session) { other.use(fn) })
				require.Nil(t, r.setCookie("session"), "%s, persistent: %v", end, persistent)
			}
		}
	})
}

// Requests of one session that load at once touch it at once, and all of them find it.
func TestP03_ManyRequestsTouchAtTheLoad(t *testing.T) {
	lifetimeStores(t, func(t *testing.T, server bool, store sessions.Store) {
		s := newSite(t, store, func(cfg *sessions.Config) { cfg.IdleTimeout = time.Hour })
		b := s.browser()
		b.login("alice")
		time.Sleep(48 * time.Minute)
		var wg sync.WaitGroup
		for i := range 20 {
			c := b.clone()
			wg.Go(func() {
				r := c.try(func(s sessions.Session) {
					if i%2 == 0 {
						addCount(s)
					}
					time.Sleep(24 * time.Minute)
				})
				if r.status != http.StatusOK {
					t.Errorf("%d: %s", r.status, r.body)
				}
			})
		}
		wg.Wait()
		if server {
			require.Equal(t, "alice", b.user())
			require.Equal(t, 10, b.count())
		}
		require.Empty(t, s.events.with(sessions.OutcomeGone))
	})
}

// Browsers keep a cookie for 400 days at most, so a persistent one is sent again about once a month, however long its
// session lives and however it is used, but no more often: a response that sets it cannot be cached.
func TestP03_APersistentCookieIsSentAgain(t *testing.T) {
	const day, year = 24 * time.Hour, 365 * 24 * time.Hour
	for _, c := range []struct{ idle, absolute, step time.Duration }{
		{20 * year, 30 * year, 7 * day},
		{2 * year, 2 * year, 7 * day},
		{2 * year, 3 * year, 390 * day},
		{390 * day, 3 * year, day},
		{200 * day, 3 * year, 160 * day},
		{200 * day, 3 * year, 23 * day},
		{60 * day, 3 * year, 20 * day},
		{30 * day, 2 * year, day},
		{day, 2 * year, 12 * time.Hour},
	} {
		for _, write := range []bool{false, true} {
			for _, sc := range []storeCase{memoryStore, cookieStore} {
				t.Run(fmt.Sprintf("%+v/%s, writes: %v", c, sc.name, write), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						s := newSite(t, sc.make(t), func(cfg *sessions.Config) { cfg.AbsoluteTimeout = c.absolute })
						b := s.browser()
						b.use(func(s sessions.Session) {
							require.NoError(t, s.Set("user", 42))
							s.SetLifetime(c.idle, true)
						})
						born, sent, until := time.Now(), 0, time.Now().Add(400*day)
						for time.Since(born)+c.step < c.absolute {
							time.Sleep(c.step)
							require.True(t, time.Now().Before(until), "the browser still has it, after %v", time.Since(born))
							r := b.use(func(s sessions.Session) {
								require.False(t, s.IsNew(), "after %v", time.Since(born))
								if write {
									addCount(s)
								}
							})
							if got := r.setCookie("session"); got != nil {
								sent++
								require.LessOrEqual(t, got.MaxAge, int((400 * day).Seconds()))
								until = time.Now().Add(time.Duration(got.MaxAge) * time.Second)
							}
						}
						if sc.server && c.idle < 370*day {
							require.LessOrEqual(t, sent, int(c.absolute/(30*day)))
						}
					})
				})
			}
		}
	}
}

// Where the server ends the session, a persistent cookie lasts as long as the session can: a gateway that asks a program
// and drops its Set-Cookie, or a lost response, logs nobody out. In a cookie alone the new expiry is in the new cookie.
func TestP03_APersistentCookieOutlivesADroppedSetCookie(t *testing.T) {
	lifetimeStores(t, func(t *testing.T, _ bool, store sessions.Store) {
		s := newSite(t, store, func(cfg *sessions.Config) { cfg.AbsoluteTimeout = 10 * time.Hour })
		b := s.browser()
		r := b.use(func(s sessions.Session) {
			s.SetLifetime(time.Hour, true)
			_ = dualUser.Set(s, "alice")
		})
		_, client := store.(*sessions.CookieStore)
		want := 10 * time.Hour
		if client {
			want = time.Hour
		}
		require.Equal(t, int(want.Seconds()), r.setCookie("session").MaxAge)
		d, dual := store.(*sessions.DualStore)
		holdsAll := client || dual && d.Phase() == sessions.OldOnly && len(b.cookie()) > 30
		b.client.Jar = dropping{b.client.Jar}
		for i := range 14 {
			time.Sleep(40 * time.Minute)
			if i > 0 && holdsAll {
				require.Empty(t, b.user())
				continue
			}
			require.Equal(t, "alice", b.user(), "after %d of 40 minutes", i+1)
		}
		time.Sleep(time.Hour)
		require.Empty(t, b.user(), "the idle timeout is the server's")
	})
}

// dropping is the cookie jar of a browser behind a gateway that drops Set-Cookie.
type dropping struct{ http.CookieJar }

func (dropping) SetCookies(*url.URL, []*http.Cookie) {}

// A persistent cookie that reaches the deadline is not sent again by reads, writes and touches, but by what changes it.
func TestP17_APersistentCookieIsSentWhenItChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newSite(t, sessiontest.NewMemoryStore()).browser()
		sends := func(want int, fn func(sessions.Session)) {
			t.Helper()
			r := b.use(fn)
			c := r.setCookie("session")
			if want < 0 {
				require.Nil(t, c)
				return
			}
			require.NotNil(t, c)
			require.Equal(t, want, c.MaxAge)
		}
		day := 24 * 60 * 60
		sends(14*day, func(s sessions.Session) {
			s.SetLifetime(7*24*time.Hour, true)
			addCount(s)
		})
		time.Sleep(24 * time.Hour)
		sends(-1, noop) // touches
		sends(-1, addCount)
		time.Sleep(5 * 24 * time.Hour)
		sends(-1, noop) // touches at the load
		sends(-1, func(s sessions.Session) { s.SetLifetime(time.Hour, true) })
		sends(0, func(s sessions.Session) { s.SetLifetime(time.Hour, false) })
		sends(-1, addCount)
		sends(8*day, func(s sessions.Session) { s.SetLifetime(24*time.Hour, true) })
		sends(8*day, func(s sessions.Session) { s.Renew() })
		time.Sleep(12 * time.Hour)
		sends(day*15/2, func(s sessions.Session) { s.Renew() })
	})
}

// Max-Age is counted from the commit, and in whole seconds: to the expiry where the client holds the record, and to the
// deadline elsewhere.
func TestMaxAgeIsTheLifetime(t *testing.T) {
	for _, lifetime := range []time.Duration{2 * time.Second, time.Hour, 30 * 24 * time.Hour} {
		for _, sc := range []storeCase{memoryStore, cookieStore} {
			s := newSite(t, sc.make(t), func(cfg *sessions.Config) {
				cfg.AbsoluteTimeout = 60 * 24 * time.Hour
				if sc.server {
					cfg.AbsoluteTimeout = lifetime
				}
			})
			r := s.browser().use(func(s sessions.Session) {
				require.NoError(t, s.Set("user", 42))
				s.SetLifetime(min(lifetime, time.Hour), true)
				if !sc.server {
					s.SetLifetime(lifetime, true)
				}
			})
			require.Equal(t, int(lifetime.Seconds()), r.setCookie("session").MaxAge, sc.name)
		}
	}
}
