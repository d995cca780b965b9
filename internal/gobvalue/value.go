package gobvalue

import (
	"fmt"
	"iter"
	"slices"
	"time"
)

// A Kind is the form of a value in the stream. The Go types int8 and int are both of kind [Int].
type Kind uint8

// The kinds up to Complex have the number of their type in the stream.
const (
	Nil     Kind = iota // a nil interface
	Bool                // bool
	Int                 // int, int8 to int64
	Uint                // uint, uint8 to uint64, uintptr
	Float               // float32, float64
	Bytes               // []byte
	String              // string
	Complex             // complex64, complex128
	List                // a slice or an array
	Map                 // a map
	Struct              // a struct
	Time                // time.Time
	Opaque              // bytes of a GobEncoder, BinaryMarshaler or TextMarshaler other than time.Time
)

var kindNames = [...]string{"nil", "bool", "int", "uint", "float", "bytes", "string", "complex", "list", "map", "struct",
	"time", "opaque"}

// String returns the name of the kind in lower case.
func (k Kind) String() string { return kindNames[k] }

// A Value is a value of a gob stream with all that it contains. The zero Value is nil, as an interface may be. A Value
// does not change: methods that change something return another Value.
type Value struct {
	kind  Kind
	field int32       // number of the field, for a value of a struct
	name  string      // registered name, for a value of an interface
	def   *definition // from List on
	num   uint64      // Bool, Int, Uint, and the bits of Float
	text  string      // String, Bytes, Time and Opaque
	elems []Value     // List; Map: key, value, key, value; Struct: the fields that are not zero; Complex: two of kind Float
}

// Kind returns the kind of v.
func (v Value) Kind() Kind { return v.kind }

// TypeName returns the name under which the Go type of v was registered with encoding/gob, such as "int", "[]string"
// or "main.Prefs". It is empty if v is not the value of an interface: then the type of what contains v determines it.
func (v Value) TypeName() string { return v.name }

// Named returns a nil Value with the type name. It tells [FromJSON] the type of an earlier value if only its
// [Value.TypeName] is known.
func Named(typeName string) Value { return Value{name: typeName} }

// StringValue returns s as a key or a value: a string of an interface or of type string, whichever its place needs.
func StringValue(s string) Value { return Value{kind: String, name: "string", text: s} }

// Time returns the time of a [Time], with its offset from UTC.
func (v Value) Time() (t time.Time, ok bool) {
	if v.kind != Time {
		return time.Time{}, false
	}
	err := t.UnmarshalBinary([]byte(v.text))
	return t, err == nil
}

// An Entry is a key of a map with its value.
type Entry struct {
	Key, Value Value
}

// Entries returns the entries of a [Map] in the order of the stream, and nothing for other kinds. encoding/gob writes
// maps in random order. A malicious stream can have a key twice: encoding/gob takes the last one.
func (v Value) Entries() iter.Seq[Entry] {
	return func(yield func(Entry) bool) {
		if v.kind != Map {
			return
		}
		for pair := range slices.Chunk(v.elems, 2) {
			if !yield(Entry{pair[0], pair[1]}) {
				return
			}
		}
	}
}

// Field returns the field of a [Struct] with its Go name. A field that is zero is not in the stream: ok is false.
func (v Value) Field(name string) (field Value, ok bool) {
	if v.kind != Struct {
		return Value{}, false
	}
	for _, f := range v.elems {
		if v.def.fields[f.field].name == name {
			return f, true
		}
	}
	return Value{}, false
}

// WithEntries returns the [Map] v with these entries instead of its own.
func (v Value) WithEntries(entries []Entry) (Value, error) {
	if v.kind != Map {
		return Value{}, fmt.Errorf("%s has no entries", v.describe())
	}
	v.elems = make([]Value, 0, 2*len(entries))
	for _, e := range entries {
		v.elems = append(v.elems, e.Key, e.Value)
	}
	return v, nil
}

// WithField returns the [Struct] v with another value in a field of its type.
func (v Value) WithField(name string, value Value) (Value, error) {
	if v.kind != Struct {
		return Value{}, fmt.Errorf("%s has no fields", v.describe())
	}
	number := slices.IndexFunc(v.def.fields, func(f fieldDef) bool { return f.name == name })
	if number < 0 {
		return Value{}, fmt.Errorf("the struct has no field %s", name)
	}
	value.field = int32(number)
	at, found := slices.BinarySearchFunc(v.elems, value.field, func(f Value, n int32) int { return int(f.field - n) })
	if found {
		v.elems = slices.Clone(v.elems)
		v.elems[at] = value
	} else {
		v.elems = slices.Insert(slices.Clip(v.elems), at, value)
	}
	return v, nil
}

// Equal reports whether v and w have the same types and values. The order of a map does not count; of times, the
// instant and the offset do. A map is not equal to any other if a key occurs twice, or is a list, map or struct with
// elements.
func (v Value) Equal(w Value) bool {
	if v.kind != w.kind || v.name != w.name || v.num != w.num || len(v.elems) != len(w.elems) {
		return false
	}
	switch v.kind {
	case Map:
		return equalMaps(v, w)
	case Time:
		t, _ := v.Time()
		u, _ := w.Time()
		_, a := t.Zone()
		_, b := u.Zone()
		return t.Equal(u) && a == b
	case Struct:
		for i, f := range v.elems {
			if v.def.fields[f.field].name != w.def.fields[w.elems[i].field].name {
				return false
			}
		}
	}
	return v.text == w.text && slices.EqualFunc(v.elems, w.elems, Value.Equal)
}

func equalMaps(v, w Value) bool {
	type key struct {
		kind Kind
		name string
		num  uint64
		text string
	}
	of := func(k Value) key { return key{k.kind, k.name, k.num, k.text} }
	others := make(map[key]Value, len(w.elems)/2)
	for e := range w.Entries() {
		others[of(e.Key)] = e.Value
	}
	for e := range v.Entries() {
		other, ok := others[of(e.Key)]
		if !ok || len(e.Key.elems) > 0 || !e.Value.Equal(other) {
			return false
		}
		delete(others, of(e.Key)) // neither map may have a key twice
	}
	return true
}
