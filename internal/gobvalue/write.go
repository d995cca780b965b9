package gobvalue

import (
	"fmt"
	"math/bits"
)

// Encode returns v as a gob stream. encoding/gob decodes it as it would decode what the program wrote that had the Go
// value. Entries of maps stay in their order, so equal values in equal order give equal bytes.
//
// It is an error if an element that [Value.WithEntries] or [Value.WithField] put into v does not have the type of its
// place. A place of an interface type takes every value with a type name.
func (v Value) Encode() ([]byte, error) {
	w := writer{ids: map[*definition]typeID{}, same: map[defined]typeID{}, last: firstID}
	var body []byte
	if v.kind == Nil || v.name != "" {
		body = append(appendInt(nil, int64(interfaceID)), 0)
		body = w.interfaceValue(body, v)
	} else {
		body = appendInt(nil, int64(w.id(v.typ())))
		body = w.delimited(body, v)
	}
	if w.err != nil {
		return nil, w.err
	}
	return appendMessage(w.definitions, body), nil
}

// A writer writes one stream: the definitions, and then the value in one message.
type writer struct {
	definitions []byte
	ids         map[*definition]typeID
	same        map[defined]typeID
	last        typeID
	depth       int
	err         error // the first one
}

func (w *writer) fail(format string, args ...any) {
	if w.err == nil {
		w.err = fmt.Errorf(format, args...)
	}
}

// A typ is a number below firstID or a definition.
type typ struct {
	id  typeID
	def *definition
}

func (v Value) typ() typ {
	if v.def != nil {
		return typ{def: v.def}
	}
	return typ{id: typeID(v.kind)}
}

// typ returns the type that the definition refers to by the number.
func (d *definition) typ(id typeID) typ {
	if id < firstID {
		return typ{id: id}
	}
	return typ{def: d.types[id]}
}

// fits reports whether a value of type t may be where the stream has one of type place. Values of two streams fit if
// they are basic, or for example times.
func (t typ) fits(place typ) bool {
	if t == place {
		return t != typ{}
	}
	return t.def != nil && place.def != nil && t.def.shape >= gobEncoderShape &&
		t.def.shape == place.def.shape && t.def.name == place.def.name
}

func (w *writer) delimited(b []byte, v Value) []byte {
	if v.kind != Struct {
		b = append(b, 0)
	}
	return w.value(b, v.typ(), v)
}

func (w *writer) value(b []byte, place typ, v Value) []byte {
	if place.id == interfaceID {
		return w.interfaceValue(b, v)
	}
	if !v.typ().fits(place) {
		w.fail("%s does not have the type of its place", v.describe())
		return b
	}
	switch v.kind {
	case Bool, Uint:
		return appendUint(b, v.num)
	case Int:
		return appendInt(b, int64(v.num))
	case Float:
		return appendUint(b, bits.ReverseBytes64(v.num))
	case Complex:
		return w.value(w.value(b, v.elems[0].typ(), v.elems[0]), v.elems[1].typ(), v.elems[1])
	case Bytes, String, Time, Opaque:
		return appendText(b, v.text)
	}
	if w.depth++; w.depth > maxDepth {
		w.fail("values are nested too deeply")
	}
	if w.err == nil {
		b = w.elements(b, v)
	}
	w.depth--
	return b
}

func (w *writer) elements(b []byte, v Value) []byte {
	switch v.kind {
	case List:
		b = appendUint(b, uint64(len(v.elems)))
		for _, e := range v.elems {
			b = w.value(b, v.def.typ(v.def.elem), e)
		}
	case Map:
		b = appendUint(b, uint64(len(v.elems)/2))
		for e := range v.Entries() {
			b = w.value(b, v.def.typ(v.def.key), e.Key)
			b = w.value(b, v.def.typ(v.def.elem), e.Value)
		}
	case Struct:
		at := int32(-1)
		for _, f := range v.elems {
			b = appendUint(b, uint64(f.field-at))
			b = w.value(b, v.def.typ(v.def.fields[f.field].id), f)
			at = f.field
		}
		b = append(b, 0)
	}
	return b
}

func (w *writer) interfaceValue(b []byte, v Value) []byte {
	if v.kind == Nil {
		return append(b, 0)
	}
	if v.name == "" {
		w.fail("%s has no type name", v.describe())
		return b
	}
	b = appendText(b, v.name)
	b = appendInt(b, int64(w.id(v.typ())))
	return appendMessage(b, w.delimited(nil, v))
}

// id returns the number of a type, and defines the type before its first use.
func (w *writer) id(t typ) typeID {
	if t.def == nil {
		if t.id == 0 {
			w.fail("the stream does not define a type that it refers to")
		}
		return t.id
	}
	if id, ok := w.ids[t.def]; ok {
		return id
	}
	w.last++
	id := w.last
	w.ids[t.def] = id // before the types it refers to: it may be one of them
	d := defined{t.def.shape, t.def.name, string(w.refs(t.def))}
	if same, ok := w.same[d]; ok {
		w.ids[t.def] = same
		return same
	}
	w.same[d] = id
	w.definitions = appendMessage(w.definitions, d.encode(id))
	return id
}

// defined is what a definition has besides its number.
type defined struct {
	shape shape
	name  string
	refs  string
}

func (d defined) encode(id typeID) []byte {
	b := appendInt(nil, -int64(id))
	b = append(b, byte(d.shape)+1, 1) // a wireType with the field of this shape, and in it the CommonType
	if d.name != "" {
		b = append(appendText(append(b, 1), d.name), 1)
	} else {
		b = append(b, 2)
	}
	b = append(appendInt(b, int64(id)), 0)
	return append(append(b, d.refs...), 0, 0)
}

// refs returns the encoded fields that follow the CommonType of a definition.
func (w *writer) refs(d *definition) (b []byte) {
	ref := func(id typeID) { b = appendInt(append(b, 1), int64(w.id(d.typ(id)))) }
	switch d.shape {
	case arrayShape:
		ref(d.elem)
		b = appendInt(append(b, 1), d.length)
	case sliceShape:
		ref(d.elem)
	case mapShape:
		ref(d.key)
		ref(d.elem)
	case structShape:
		b = appendUint(append(b, 1), uint64(len(d.fields)))
		for _, f := range d.fields {
			b = appendText(append(b, 1), f.name)
			ref(f.id)
			b = append(b, 0)
		}
	}
	return b
}

func appendMessage(b, body []byte) []byte { return append(appendUint(b, uint64(len(body))), body...) }

func appendText(b []byte, s string) []byte { return append(appendUint(b, uint64(len(s))), s...) }

func appendInt(b []byte, i int64) []byte {
	u := uint64(i) << 1
	if i < 0 {
		u = ^u
	}
	return appendUint(b, u)
}

func appendUint(b []byte, u uint64) []byte {
	if u < 0x80 {
		return append(b, byte(u))
	}
	n := (bits.Len64(u) + 7) / 8
	b = append(b, byte(-n))
	for n--; n >= 0; n-- {
		b = append(b, byte(u>>(8*n)))
	}
	return b
}
