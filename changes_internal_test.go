package sessions

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// A record finds its values by an index once they are many: the same as a map, whatever is set and deleted.
func TestRecordFindsAmongMany(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		r, want := testRecord(), map[string]string{}
		for range 500 {
			key, raw := fmt.Sprint("k", rnd.IntN(120)), fmt.Sprint(rnd.IntN(1000))
			switch rnd.IntN(8) {
			case 0, 1, 2:
				r.delete(key)
				delete(want, key)
			case 3:
				r = r.clone()
			default:
				r.set(key, raw)
				want[key] = raw
			}
			got := map[string]string{}
			for _, e := range r.values {
				got[e.Key] = e.Raw
			}
			require.Equal(t, want, got)
			require.Len(t, r.values, len(want))
			found, ok := r.raw(key)
			wanted, there := want[key]
			require.Equal(t, there, ok)
			require.Equal(t, wanted, found)
		}
	}
}

// The changes that are kept make of any record what all of them would make of it, and are not more than they must be.
func TestOpListKeepsWhatCounts(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	s := &session{limits: &limits{}}
	for range 100 {
		var list opList
		var all []*op
		for n := range 300 {
			o := &op{kind: opSet, key: fmt.Sprint("k", rnd.IntN(60)), raw: fmt.Sprint(n)}
			switch rnd.IntN(40) {
			case 0:
				o = &op{kind: opClear}
			case 1:
				o = &op{kind: opLifetime, persistent: n%2 == 0}
			case 2, 3, 4, 5:
				o.kind = opDelete
			}
			o2 := *o
			all = append(all, &o2)
			list.add(o)
			require.LessOrEqual(t, len(list.all), 2*(60+2)+1)
		}
		one, other := testRecord("k1", "x"), testRecord("k1", "x")
		require.NoError(t, s.rebase(one, all))
		require.NoError(t, s.rebase(other, list.all))
		values := func(r *Record) map[string]string {
			got := map[string]string{}
			for k, v := range r.Values() {
				got[k] = string(v)
			}
			return got
		}
		require.Equal(t, values(one), values(other))
		require.Equal(t, one.Persistent, other.Persistent)
	}
}

// The order of updates and sets of one key is kept.
func TestOpListOrder(t *testing.T) {
	for _, few := range []bool{true, false} {
		var list opList
		if !few {
			for i := range 2 * manyOps {
				list.add(&op{kind: opSet, key: fmt.Sprint("other", i)})
			}
		}
		for _, o := range []*op{{kind: opSet, key: "k"}, {kind: opUpdate, key: "k"}, {kind: opUpdate, key: "k"}} {
			list.add(o)
		}
		kinds := func() (kinds []opKind) {
			for _, o := range list.all {
				if o != nil && o.key == "k" {
					kinds = append(kinds, o.kind)
				}
			}
			return kinds
		}
		require.Equal(t, []opKind{opSet, opUpdate, opUpdate}, kinds())
		list.add(&op{kind: opDelete, key: "k"})
		require.Equal(t, []opKind{opDelete}, kinds())
		list.add(&op{kind: opClear})
		require.Empty(t, kinds())
	}
}
