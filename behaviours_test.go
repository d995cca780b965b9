package sessions_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"handover.example/sessions"
	"handover.example/sessions/internal/redistest"
)

func TestBehaviour01_AnonymousReadLeavesNothing(t *testing.T) {
	eachStore(t, func(t *testing.T, _ storeCase, store sessions.Store) {
		spy := &spyStore{Store: store}
		b := newSite(t, spy).browser()
		r := b.use(func(s sessions.Session) {
			var v any
			ok, err := s.Get("user", &v)
			require.NoError(t, err)
			require.False(t, ok)
			require.True(t, s.IsNew())
		})
		require.Empty(t, r.header.Values("Set-Cookie"))
		require.Equal(t, []string{"Cookie"}, r.header.Values("Vary"))
		require.Zero(t, spy.calls())
	})
}

func TestBehaviour02_ReadOnlyIsOneLoad(t *testing.T) {
	eachStore(t, func(t *testing.T, _ storeCase, store sessions.Store) {
		spy := &spyStore{Store: store}
		b := newSite(t, spy).browser()
		b.set("user", 42)
		spy.reset()
		r := b.use(func(s sessions.Session) {
			require.Equal(t, "42", value(t, s, "user"))
			require.Equal(t, "42", value(t, s, "user"))
			require.False(t, s.IsNew())
		})
		require.Empty(t, r.header.Values("Set-Cookie"))
		require.EqualValues(t, 1, spy.loads.Load())
		require.Zero(t, spy.writes())
	})
}

func TestBehaviour03_UnknownTokenIsNotAdopted(t *testing.T) {
	eachServerStore(t, func(t *testing.T, store sessions.Store) {
		spy := &spyStore{Store: store}
		site := newSite(t, spy)
		theirs := sessions.NewToken()
		b := site.browser().hold(theirs)
		r := b.use(func(s sessions.Session) { require.True(t, s.IsNew()) })
		require.Empty(t, r.header.Values("Set-Cookie"))
		require.Zero(t, spy.writes())
		require.Len(t, site.events.with(sessions.OutcomeUnknown), 1)

		b.set("user", 1)
		require.NotEqual(t, theirs, b.cookie())
		require.Equal(t, "1", b.get("user"))
		_, err := store.Load(context.Background(), "session", theirs)
		require.ErrorIs(t, err, sessions.ErrNotFound)
	})
}

func TestBehaviour04_ImpossibleTokenIsNotAskedFor(t *testing.T) {
	// The server itself counts what it is asked.
	srv := redistest.Start(t)
	rdb := srv.Client(t)
	checkTTLs(t, rdb)
	b := newSite(t, redisStoreOver(t, rdb)).browser()
	ctx := context.Background()
	require.NoError(t, rdb.ConfigResetStat(ctx).Err())
	for _, token := range impossibleTokens {
		r := b.raw(func(s sessions.Session) { require.True(t, s.IsNew()) }, "session="+token)
		require.Equal(t, http.StatusOK, r.status)
	}
	stats, err := rdb.Info(ctx, "commandstats").Result()
	require.NoError(t, err)
	require.NotContains(t, stats, "cmdstat_get:")
	require.NotContains(t, stats, "cmdstat_set:")
}

// impossibleTokens are values that cannot be one of our tokens, whatever the store.
var impossibleTokens = []string{
	"",
	"short",
	strings.Repeat("A", 21),
	strings.Repeat("A", 23),
	strings.Repeat("A", 21) + "B",  // the last character has bits that no encoder sets
	strings.Repeat("A", 21) + "!",  // outside the alphabet
	strings.Repeat("A", 21) + "+",  // of the other base64 alphabet
	strings.Repeat("A", 20) + "==", // padded
	strings.Repeat("A", 21) + "\n",
	strings.Repeat("A", 11) + "\r\n" + strings.Repeat("A", 11),
	strings.Repeat("A", 21) + "\x00",
	strings.Repeat("A", 21) + "\xff",
	"ÄÄÄÄÄÄÄÄÄÄÄ", // 22 bytes
	strings.Repeat("A", 10<<10),
}

func TestBehaviour05_DestroyedThenReplayed(t *testing.T) {
	eachServerStore(t, func(t *testing.T, store sessions.Store) {
		b := newSite(t, store).browser()
		b.set("user", 42)
		old := b.cookie()
		r := b.use(func(s sessions.Session) { s.Destroy() })
		require.Negative(t, r.setCookie("session").MaxAge)
		require.Empty(t, b.cookie())
		b.hold(old)
		b.use(func(s sessions.Session) {
			require.Empty(t, keys(s))
			require.True(t, s.IsNew())
		})
	})
}

func TestBehaviour06_DestroyWithoutCookie(t *testing.T) {
	eachStore(t, func(t *testing.T, _ storeCase, store sessions.Store) {
		spy := &spyStore{Store: store}
		b := newSite(t, spy).browser()
		r := b.use(func(s sessions.Session) { s.Destroy() })
		require.Empty(t, r.header.Values("Set-Cookie"))
		require.Zero(t, spy.calls())
	})
}

func TestBehaviour07_EmptySessionPersists(t *testing.T) {
	eachStore(t, func(t *testing.T, sc storeCase, store sessions.Store) {
		b := newSite(t, store).browser()
		b.set("flash", "hello")
		token, id := b.cookie(), b.id()
		b.use(func(s sessions.Session) { s.Delete("flash") })
		b.use(func(s sessions.Session) {
			require.False(t, s.IsNew())
			require.Empty(t, keys(s))
			require.Equal(t, id, s.ID())
		})
		if sc.server {
			require.Equal(t, token, b.cookie())
		}
	})
}

func TestBehaviour08_RenewKeepsDataAndKillsTheOldToken(t *testing.T) {
	eachStore(t, func(t *testing.T, sc storeCase, store sessions.Store) {
		site := newSite(t, store)
		b := site.browser()
		var created time.Time
		b.use(func(s sessions.Session) { require.NoError(t, s.Set("user", 42)) })
		b.use(func(s sessions.Session) { created = s.CreatedAt() })
		old, oldID := b.cookie(), b.id()
		b.use(func(s sessions.Session) {
			s.Renew()
			require.NoError(t, s.Set("role", "admin"))
		})
		require.NotEqual(t, old, b.cookie())
		b.use(func(s sessions.Session) {
			require.Equal(t, "42", value(t, s, "user"))
			require.Equal(t, `"admin"`, value(t, s, "role"))
			require.NotEqual(t, oldID, s.ID())
			require.Equal(t, created, s.CreatedAt())
			require.False(t, s.IsNew())
		})
		if sc.server {
			b.raw(func(s sessions.Session) { require.Empty(t, keys(s)) }, "session="+old)
			require.Len(t, site.events.with(sessions.OutcomeRevoked), 1)
		}
	})
}

func TestBehaviour09_RenewIsTheFirstUse(t *testing.T) {
	eachStore(t, func(t *testing.T, _ storeCase, store sessions.Store) {
		b := newSite(t, store).browser()
		b.set("user", 42)
		old := b.cookie()
		b.use(func(s sessions.Session) { s.Renew() })
		require.NotEqual(t, old, b.cookie())
		require.Equal(t, "42", b.get("user"))
	})
}

func TestBehaviour10_DestroyBeatsASlowWriter(t *testing.T) {
	eachServerStore(t, func(t *testing.T, store sessions.Store) {
		site := newSite(t, store)
		b := site.browser()
		b.set("user", 42)
		old := b.cookie()
		slow := b.clone()
		r := slow.try(func(s sessions.Session) {
			require.NoError(t, s.Set("late", true))
			b.use(func(s sessions.Session) {
				s.Destroy()
				require.NoError(t, s.Set("user", 43)) // logged in again at once, as somebody else
			})
		})
		require.Equal(t, http.StatusConflict, r.status)
		require.Empty(t, r.header.Values("Set-Cookie"))
		require.Len(t, site.events.with(sessions.OutcomeGone), 1)
		require.Equal(t, "43", b.get("user"))
		b.raw(func(s sessions.Session) { require.True(t, s.IsNew()) }, "session="+old)
	})
}

func TestBehaviour11_ParallelWritesToDifferentKeys(t *testing.T) {
	eachServerStore(t, func(t *testing.T, store sessions.Store) {
		for _, inner := range []bool{false, true} { // who commits first
			b := newSite(t, store).browser()
			b.set("start", 0)
			b.use(func(s sessions.Session) {
				if !inner {
					require.NoError(t, s.Set("x", 1))
				}
				b.clone().set("y", 2)
				if inner {
					require.NoError(t, s.Set("x", 1))
				}
			})
			b.use(func(s sessions.Session) { require.Equal(t, []string{"start", "x", "y"}, keys(s)) })
		}
	})
}

func TestBehaviour12_ReaderDoesNotUndoAWrite(t *testing.T) {
	eachServerStore(t, func(t *testing.T, store sessions.Store) {
		b := newSite(t, store).browser()
		b.set("x", 1)
		b.use(func(s sessions.Session) {
			require.Equal(t, "1", value(t, s, "x"))
			b.clone().set("x", 2)
		})
		require.Equal(t, "2", b.get("x"))
	})
}

func TestBehaviour13_HundredIncrements(t *testing.T) {
	eachServerStore(t, func(t *testing.T, store sessions.Store) {
		site := newSite(t, store)
		b := site.overNetwork()
		b.set("n", 0)
		n := sessions.NewKey[int]("n")
		var wg sync.WaitGroup
		for range 10 {
			tab := b.clone()
			wg.Go(func() {
				for range 10 {
					r := tab.do(func(w http.ResponseWriter, r *http.Request) {
						s, err := sessions.Get(r.Context())
						if err == nil {
							_, err = n.Update(s, func(n int) int { return n + 1 })
						}
						if err != nil {
							http.Error(w, err.Error(), http.StatusInternalServerError)
						}
					})
					if r.err != nil || r.status != http.StatusOK {
						t.Errorf("increment: %d %q %v", r.status, r.body, r.err)
					}
				}
			})
		}
		wg.Wait()
		require.Equal(t, "100", b.get("n"))
	})
}

func TestBehaviour14_RenewBesideAnOldRequest(t *testing.T) {
	eachServerStore(t, func(t *testing.T, store sessions.Store) {
		for _, late := range []string{"reads", "writes", "renews"} {
			t.Run(late, func(t *testing.T) {
				b := newSite(t, store).browser()
				b.set("user", 42)
				old := b.cookie()
				inFlight := b.clone()
				r := inFlight.try(func(s sessions.Session) {
					b.use(func(s sessions.Session) { s.Renew() })
					switch late {
					case "writes":
						require.NoError(t, s.Set("late", true))
					case "renews":
						s.Renew()
					}
				})
				require.Empty(t, r.header.Values("Set-Cookie"), "the new cookie would be replaced")
				if late == "reads" {
					require.Equal(t, http.StatusOK, r.status)
				} else {
					require.Equal(t, http.StatusConflict, r.status)
				}
				b.use(func(s sessions.Session) { require.Equal(t, []string{"user"}, keys(s)) })
				b.raw(func(s sessions.Session) { require.Empty(t, keys(s)) }, "session="+old)
			})
		}
	})
}

// A parallel write between the two steps of a renewal goes along to the new token.
func TestBehaviour14_RenewTakesAParallelWriteAlong(t *testing.T) {
	eachServerStore(t, func(t *testing.T, store sessions.Store) {
		spy := &spyStore{Store: store}
		b := newSite(t, spy).browser()
		b.set("user", 42)
		tab := b.clone()
		var saves int
		spy.before(func(_ context.Context, op string, rec *sessions.Record) error {
			if saves++; op == "save" && rec.Revoked && saves < 4 {
				spy.before(nil)
				tab.set("cart", []int{1, 2})
			}
			return nil
		})
		b.use(func(s sessions.Session) {
			s.Renew()
			require.NoError(t, s.Set("role", "admin"))
		})
		b.use(func(s sessions.Session) {
			require.Equal(t, []string{"cart", "role", "user"}, keys(s))
			require.Equal(t, "[1,2]", value(t, s, "cart"))
		})
	})
}

func TestBehaviour15_EveryKeyHasATTL(t *testing.T) {
	// The check itself is in checkTTLs, at the end of every test on Redis. Here are the durations that tempt.
	for _, c := range []struct {
		name           string
		idle, absolute time.Duration
		own            time.Duration
	}{
		{"defaults", 0, 0, 0},
		{"least", time.Millisecond, time.Millisecond, 0},
		{"a hundred years", 100 * 365 * 24 * time.Hour, 100 * 365 * 24 * time.Hour, 0},
		{"longest", 1<<63 - 1, 1<<63 - 1, 1<<63 - 1},
		{"own zero", 0, 0, 0},
		{"own negative", 0, 0, -time.Hour},
		{"own most negative", 0, 0, -1 << 63},
		{"own below a millisecond", 0, 0, time.Microsecond},
		{"own a nanosecond", 0, 0, 1},
		{"own of a second and a half", 0, 0, 1500 * time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			rdb := redistest.Start(t).Client(t)
			checkTTLs(t, rdb)
			b := newSite(t, redisStoreOver(t, rdb), func(cfg *sessions.Config) {
				cfg.IdleTimeout, cfg.AbsoluteTimeout = c.idle, c.absolute
			}).browser()
			r := b.try(func(s sessions.Session) {
				require.NoError(t, s.Set("user", 1))
				if c.own != 0 || c.name == "own zero" {
					s.SetLifetime(c.own, true)
				}
			})
			require.Less(t, r.status, 500)
			if cookie := r.setCookie("session"); cookie != nil && cookie.MaxAge != 0 {
				require.LessOrEqual(t, cookie.MaxAge, 14*24*60*60, "cookie and key end together")
			}
			r = b.try(func(s sessions.Session) { s.Renew(); _ = s.Set("user", 2) })
			require.Less(t, r.status, 500)
			r = b.try(func(s sessions.Session) { _ = s.Set("user", 3) })
			require.Less(t, r.status, 500)
			keys, err := rdb.Keys(context.Background(), "*").Result()
			require.NoError(t, err)
			for _, key := range keys {
				ttl, err := rdb.PTTL(context.Background(), key).Result()
				require.NoError(t, err)
				require.NotEqual(t, time.Duration(-1), ttl)
				require.LessOrEqual(t, ttl, 14*24*time.Hour)
			}
		})
	}
}

func TestBehaviour16_IdleTimeoutSlides(t *testing.T) {
	for _, sc := range []storeCase{memoryStore, cookieStore} {
		t.Run(sc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				spy := &spyStore{Store: sc.make(t)}
				b := newSite(t, spy, func(c *sessions.Config) { c.IdleTimeout = 30 * time.Minute }).browser()
				b.set("user", 42)
				spy.reset()
				for range 120 {
					time.Sleep(time.Minute)
					require.Equal(t, "42", b.get("user"))
				}
				require.Zero(t, spy.saves.Load())
				require.EqualValues(t, 30, spy.touches.Load(), "each 4 minutes: the first minute that is past 1/8 of 30")
				time.Sleep(30*time.Minute - time.Second - 3*time.Minute)
				require.Equal(t, "42", b.get("user"))
				time.Sleep(30 * time.Minute)
				require.Equal(t, "", b.get("user"))
			})
		})
	}
}

func TestBehaviour16_IdleTimeoutSlidesOnRedis(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t).Client(t)
	checkTTLs(t, rdb)
	spy := &spyStore{Store: redisStoreOver(t, rdb)}
	b := newSite(t, spy, func(c *sessions.Config) { c.IdleTimeout = 3 * time.Second }).browser()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	var begin, last time.Time
	for ; begin.IsZero() || time.Since(begin) <= 4*time.Second; <-tick.C {
		if time.Since(last) > 2*time.Second { // the first time, and when the machine stood still: begin again
			begin = time.Now()
			b.set("user", 42)
			spy.reset()
		} else {
			require.Equal(t, "42", b.get("user"))
		}
		last = time.Now()
	}
	require.Zero(t, spy.saves.Load())
	require.GreaterOrEqual(t, spy.touches.Load(), int64(2))
	require.LessOrEqual(t, spy.touches.Load(), int64(time.Since(begin)/(375*time.Millisecond)))
	key := "session:" + b.id()
	require.Eventually(t, func() bool {
		n, err := rdb.Exists(context.Background(), key).Result()
		return err == nil && n == 0
	}, 10*time.Second, 50*time.Millisecond)
	require.Equal(t, "", b.get("user"))
}

func TestBehaviour17_AbsoluteDeadline(t *testing.T) {
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

func TestBehaviour17_NoTTLPastTheDeadline(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t).Client(t)
	checkTTLs(t, rdb)
	b := newSite(t, redisStoreOver(t, rdb), func(c *sessions.Config) {
		c.IdleTimeout, c.AbsoluteTimeout = time.Hour, 4*time.Second
	}).browser()
	b.set("user", 42)
	begin := time.Now()
	key := "session:" + b.id()
	b.set("user", 43)
	b.use(func(s sessions.Session) { s.SetLifetime(time.Hour, true) })
	left := 4*time.Second - time.Since(begin)
	ttl, err := rdb.PTTL(context.Background(), key).Result()
	require.NoError(t, err)
	require.LessOrEqual(t, ttl, left+100*time.Millisecond)
	require.Eventually(t, func() bool { return b.clone().get("user") == "" }, 10*time.Second, 20*time.Millisecond)
}

func TestBehaviour18_ExpiredSealedCookieReplayed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		site := newSite(t, cookieStore.make(t), func(c *sessions.Config) { c.IdleTimeout = time.Hour })
		b := site.browser()
		b.use(func(s sessions.Session) {
			require.NoError(t, s.Set("user", 42))
			s.SetLifetime(0, true)
		})
		old := b.cookie()
		time.Sleep(time.Hour)
		require.Empty(t, b.cookie(), "Max-Age has passed")
		r := b.raw(func(s sessions.Session) { require.Empty(t, keys(s)) }, "session="+old)
		require.Equal(t, http.StatusOK, r.status)
		require.Len(t, site.events.with(sessions.OutcomeExpired), 1)
	})
}

func TestBehaviour19_OwnLifetime(t *testing.T) {
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
				require.Equal(t, 7*24*60*60, r.setCookie("session").MaxAge)
				for range 5 {
					time.Sleep(2 * time.Hour)
					require.Equal(t, "", plain.get("user"))
					require.Equal(t, "2", remembered.get("user"))
				}
				r = remembered.set("user", 3)
				require.Equal(t, 7*24*60*60, r.setCookie("session").MaxAge)
				time.Sleep(3 * 24 * time.Hour)
				r = remembered.use(noop)
				require.Equal(t, 7*24*60*60, r.setCookie("session").MaxAge, "the cookie slides along")
				time.Sleep(7*24*time.Hour - time.Second)
				// The deadline of fourteen days is nearer than seven more.
				r = remembered.use(noop)
				require.Less(t, r.setCookie("session").MaxAge, 4*24*60*60)
				require.Equal(t, "3", remembered.get("user"))
			})
		})
	}
}

func TestBehaviour20_DefaultAttributes(t *testing.T) {
	eachStore(t, func(t *testing.T, _ storeCase, store sessions.Store) {
		b := newSite(t, store).browser()
		r := b.set("user", 42)
		require.Len(t, r.header.Values("Set-Cookie"), 1)
		require.Equal(t, "session="+b.cookie()+"; Path=/; HttpOnly; SameSite=Lax", r.header.Get("Set-Cookie"))
		require.Equal(t, "no-store", r.header.Get("Cache-Control"))
	})
}

func TestBehaviour21_SecureAlwaysOverHTTP(t *testing.T) {
	eachStore(t, func(t *testing.T, _ storeCase, store sessions.Store) {
		site := newSite(t, store, func(c *sessions.Config) { c.Secure = sessions.SecureAlways })
		r := site.browser().set("user", 42)
		require.True(t, r.setCookie("session").Secure)
		require.Len(t, site.events.with(sessions.OutcomeInsecure), 1)
		require.Contains(t, site.events.with(sessions.OutcomeInsecure)[0].Detail, "X-Forwarded-Proto: https")
	})
}

func TestBehaviour22_TrustedProxy(t *testing.T) {
	eachStore(t, func(t *testing.T, _ storeCase, store sessions.Store) {
		for _, c := range []struct {
			peer, header string
			secure       bool
			untrusted    int
		}{
			{"10.1.2.3:5000", "https", true, 0},
			{"203.0.113.9:5000", "https", false, 1},
			{"10.1.2.3:5000", "https, http", true, 0},
			{"10.1.2.3:5000", "http, https", false, 0},
			{"10.1.2.3:5000", "http", false, 0},
		} {
			site := newSite(t, store)
			b := site.browser()
			b.peer = c.peer
			b.header.Set("X-Forwarded-Proto", c.header)
			r := b.set("user", 42)
			require.Equal(t, c.secure, r.setCookie("session").Secure, c)
			require.Len(t, site.events.with(sessions.OutcomeUntrustedProxy), c.untrusted, c)
		}
	})
}

func TestBehaviour23_SameSiteNoneIsSecure(t *testing.T) {
	eachStore(t, func(t *testing.T, _ storeCase, store sessions.Store) {
		site := newSite(t, store, func(c *sessions.Config) { c.Cookie.SameSite = http.SameSiteNoneMode })
		b := site.browser()
		r := b.set("user", 42)
		require.True(t, r.setCookie("session").Secure)
		require.Equal(t, http.SameSiteNoneMode, r.setCookie("session").SameSite)
		require.Len(t, site.events.with(sessions.OutcomeInsecure), 1)
		b.https().set("user", 42)
		r = b.use(func(s sessions.Session) { s.Destroy() })
		require.True(t, r.setCookie("session").Secure, "also the line that deletes it")
	})
	_, err := sessions.New(sessions.Config{Store: memoryStore.make(t), Secure: sessions.DangerouslyNeverSecure,
		Cookie: sessions.Cookie{SameSite: http.SameSiteNoneMode}})
	require.ErrorContains(t, err, "Cookie.SameSite")
}

func TestBehaviour24_FlippedBit(t *testing.T) {
	site := newSite(t, cookieStore.make(t))
	b := site.browser()
	b.set("user", 42)
	text := b.cookie()
	sealed, err := base64.URLEncoding.DecodeString(text)
	require.NoError(t, err)
	for i := range sealed {
		site.events.reset()
		flipped := append([]byte(nil), sealed...)
		flipped[i] ^= 1 << (i % 8)
		r := b.raw(func(s sessions.Session) { require.Empty(t, keys(s)) }, "session="+base64.URLEncoding.EncodeToString(flipped))
		require.Equal(t, http.StatusOK, r.status)
		require.Equal(t, []string{"reject tampered", "load none"}, site.events.outcomes(), i)
	}
	for i := range text { // and in the text, where other values may decode to the same bytes
		for _, c := range []byte{'A', 'B', '-', '_', '=', ' ', '+'} {
			if text[i] == c {
				continue
			}
			r := b.raw(func(s sessions.Session) { require.Empty(t, keys(s), i) }, "session="+text[:i]+string(c)+text[i+1:])
			require.Equal(t, http.StatusOK, r.status)
		}
	}
}

func TestBehaviour25_SealedForAnotherName(t *testing.T) {
	store := cookieStore.make(t)
	other := newSite(t, store, func(c *sessions.Config) { c.Cookie.Name = "other" }).browser()
	other.set("admin", true)
	site := newSite(t, store)
	r := site.browser().raw(func(s sessions.Session) { require.Empty(t, keys(s)) }, "session="+other.cookieNamed("other"))
	require.Equal(t, http.StatusOK, r.status)
	require.Len(t, site.events.with(sessions.OutcomeTampered), 1)
}

func TestBehaviour26_SecretsRotate(t *testing.T) {
	oldSite := newSite(t, cookieStoreWith(t, secretA))
	b := oldSite.browser()
	b.set("user", 42)
	first := b.cookie()

	rotated := newSite(t, cookieStoreWith(t, secretB, secretA))
	b2 := rotated.browser().hold(first)
	r := b2.use(func(s sessions.Session) { require.Equal(t, "42", value(t, s, "user")) })
	require.Empty(t, r.header.Values("Set-Cookie"))
	b2.set("user", 43)
	second := b2.cookie()

	newOnly := newSite(t, cookieStoreWith(t, secretB))
	require.Equal(t, "43", newOnly.browser().hold(second).get("user"))
	require.Equal(t, "", newOnly.browser().hold(first).get("user"))
	require.Equal(t, "", oldSite.browser().hold(second).get("user"))
}

func TestBehaviour27_BadSecrets(t *testing.T) {
	short := []byte("only thirty-one bytes of secret")
	require.Len(t, short, 31)
	for _, c := range []struct {
		name    string
		secrets [][]byte
		fields  []string
	}{
		{"none", nil, []string{"secrets"}},
		{"nil", [][]byte{nil}, []string{"secrets[0]"}},
		{"short", [][]byte{short}, []string{"secrets[0]"}},
		{"equal twice", [][]byte{secretA, secretA}, []string{"secrets[1]"}},
		{"all at once", [][]byte{short, secretA, {}, secretA}, []string{"secrets[0]", "secrets[2]", "secrets[3]"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			codec, err := sessions.NewSecureCookieCodec(c.secrets...)
			require.Nil(t, codec)
			require.Equal(t, c.fields, configFields(t, err))
			for _, secret := range c.secrets {
				if len(secret) > 0 {
					require.NotContains(t, err.Error(), string(secret))
				}
			}
		})
	}
}

// The values are JSON that a person can read with redis-cli GET, and the token is nowhere in Redis.
func TestBehaviour15_StoredFormIsReadable(t *testing.T) {
	rdb := redistest.Start(t).Client(t)
	checkTTLs(t, rdb)
	b := newSite(t, redisStoreOver(t, rdb)).browser()
	b.set("user", map[string]any{"name": "A <b> \"c\"", "n": 1})
	text, err := rdb.Get(context.Background(), "session:"+b.id()).Result()
	require.NoError(t, err)
	require.NotContains(t, text, b.cookie())
	var head string
	var values map[string]json.RawMessage
	require.NoError(t, json.Unmarshal([]byte(text), &[]any{&head, &values}))
	require.Contains(t, values, "user")
	require.NotContains(t, fmt.Sprint(allKeys(t, rdb)), b.cookie())
}

func allKeys(t *testing.T, rdb *redis.Client) []string {
	t.Helper()
	keys, err := rdb.Keys(context.Background(), "*").Result()
	require.NoError(t, err)
	return keys
}
