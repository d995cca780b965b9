package gobvalue

import (
	"errors"
	"math"
	"math/bits"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

const (
	// maxDepth is how deep lists, maps and structs may be nested.
	maxDepth = 64
	// maxTypes is how many types a stream may define.
	maxTypes = 1000
	// maxFieldName bounds the name of a field, in bytes. JSON repeats it for each struct of a list.
	maxFieldName = 128
	// maxTypeName bounds registered names, in bytes. It is the limit of encoding/gob.
	maxTypeName = 1024
)

// A typeID is the number of a type in a stream.
type typeID int64

const (
	interfaceID typeID = 8
	firstID     typeID = 64 // of the types that a stream defines
	maxID       typeID = math.MaxInt32
)

// A shape is how a stream defines a type. The order is that of the fields of wireType in the documentation of
// encoding/gob.
type shape uint8

const (
	arrayShape shape = iota
	sliceShape
	structShape
	mapShape
	gobEncoderShape
	binaryMarshalerShape
	textMarshalerShape
	shapes = iota
)

// A definition is a type that a stream defines.
type definition struct {
	shape  shape
	name   string
	key    typeID     // map
	elem   typeID     // array, slice, map
	length int64      // array
	fields []fieldDef // struct
	types  definitions
}

type fieldDef struct {
	name string
	id   typeID
}

// definitions are the types of one stream. A type may refer to one that is defined later, or to itself.
type definitions map[typeID]*definition

// Parse reads the first value of a gob stream and returns what follows it: encoding/gob ignores the rest if it decodes
// one value. data may be of any origin. Memory and time are linear in its length, which the caller must bound.
//
// Parse accepts what [encoding/gob.Encoder] writes. It refuses lists, maps and structs that are nested deeper than 64
// levels, more than 1000 types, and names of types and fields that no Go program has.
func Parse(data []byte) (v Value, rest []byte, err error) {
	r := reader{rest: data, types: definitions{}}
	defer func() {
		switch p := recover().(type) {
		case nil:
		case malformed:
			v, rest, err = Value{}, nil, errors.New("not a gob stream that can be read: "+string(p))
		default:
			panic(p)
		}
	}()
	v = r.delimited(r.typeSequence(false))
	return v, data[len(data)-r.remaining():], nil
}

// malformed is the panic of a reader.
type malformed string

// A reader is where in the stream Parse is. A message ends where a type is defined, also in the middle of a value.
type reader struct {
	buf   []byte // of the message
	rest  []byte // the messages behind it
	types definitions
	depth int
	// owed is how many values the lists and maps around the current value still need. Each is at least one byte, so a
	// count that does not leave enough bytes is wrong, and all counts together allocate no more than the stream is long.
	owed int
}

func (r *reader) remaining() int { return len(r.buf) + len(r.rest) }

// typeSequence reads definitions up to the type of the value that follows.
func (r *reader) typeSequence(inInterface bool) typeID {
	for {
		if len(r.buf) == 0 {
			r.nextMessage()
		}
		id := r.typeID()
		if id >= 0 {
			return id
		}
		r.define(-id)
		if len(r.buf) == 0 {
			continue
		}
		if !inInterface {
			panic(malformed("bytes follow a definition"))
		}
		r.uint() // the length of what follows, as in the length of a message
	}
}

func (r *reader) nextMessage() {
	r.buf = r.rest
	n := r.uint()
	if n > uint64(len(r.buf)) {
		panic(malformed("a message is cut off"))
	}
	r.buf, r.rest = r.buf[:n], r.buf[n:]
}

// delimited reads a value that is not inside another one: unless it is a struct, a zero precedes it.
func (r *reader) delimited(id typeID) Value {
	if d := r.types[id]; (d == nil || d.shape != structShape) && r.uint() != 0 {
		panic(malformed("a value has a field number"))
	}
	return r.value(id)
}

func (r *reader) value(id typeID) Value {
	switch id {
	case typeID(Bool):
		v := Value{kind: Bool}
		if r.uint() != 0 {
			v.num = 1
		}
		return v
	case typeID(Int):
		return Value{kind: Int, num: uint64(r.int())}
	case typeID(Uint):
		return Value{kind: Uint, num: r.uint()}
	case typeID(Float):
		return Value{kind: Float, num: bits.ReverseBytes64(r.uint())}
	case typeID(Complex):
		return Value{kind: Complex, elems: []Value{r.value(typeID(Float)), r.value(typeID(Float))}}
	case typeID(Bytes), typeID(String):
		return Value{kind: Kind(id), text: r.string()}
	case interfaceID:
		return r.interfaceValue()
	}
	d := r.types[id]
	if d == nil {
		panic(malformed("a value has an undefined type"))
	}
	if d.shape >= gobEncoderShape {
		data := r.string()
		return Value{kind: opaqueKind(d, d.name == "Time", data), def: d, text: data}
	}
	if r.depth++; r.depth > maxDepth {
		panic(malformed("values are nested too deeply"))
	}
	v := Value{def: d}
	switch d.shape {
	case arrayShape, sliceShape:
		v.kind, v.elems = List, r.list(d)
	case mapShape:
		v.kind, v.elems = Map, r.mapping(d)
	case structShape:
		v.kind = Struct
		r.fields(len(d.fields), func(i int) {
			f := r.value(d.fields[i].id)
			f.field = int32(i)
			v.elems = append(v.elems, f)
		})
	}
	r.depth--
	return v
}

func (r *reader) list(d *definition) []Value {
	n := r.count(1)
	if d.shape == arrayShape && int64(n) != d.length {
		panic(malformed("an array has not the length of its type"))
	}
	elems := make([]Value, n)
	r.owed += n
	for i := range elems {
		r.owed--
		elems[i] = r.value(d.elem)
	}
	return elems
}

func (r *reader) mapping(d *definition) []Value {
	n := 2 * r.count(2)
	elems := make([]Value, n)
	r.owed += n
	for i := range elems {
		r.owed--
		if i%2 == 0 {
			elems[i] = r.value(d.key)
		} else {
			elems[i] = r.value(d.elem)
		}
	}
	return elems
}

// interfaceValue reads the registered name, the type and the value. A length is before the value, but it ends at the
// first definition inside the value, so it bounds nothing; encoding/gob ignores it as well.
func (r *reader) interfaceValue() Value {
	name := r.string()
	if name == "" {
		return Value{}
	}
	if len(name) > maxTypeName || strings.ContainsFunc(name, notPrintable) {
		panic(malformed("a type has an impossible name"))
	}
	id := r.typeSequence(true)
	if id == interfaceID {
		panic(malformed("the value of an interface is an interface"))
	}
	r.uint()
	v := r.delimited(id)
	v.name = name
	if v.kind == Time || v.kind == Opaque { // the type name decides: other packages have a type Time as well
		v.kind = opaqueKind(v.def, name == "time.Time" || name == "*time.Time", v.text)
	}
	return v
}

// opaqueKind returns Time if a type with the name of time.Time has the bytes of one.
func opaqueKind(d *definition, hasName bool, data string) Kind {
	if hasName && d.shape == gobEncoderShape && new(time.Time).UnmarshalBinary([]byte(data)) == nil {
		return Time
	}
	return Opaque
}

// define reads a wireType: a struct with exactly one field, which tells the shape.
func (r *reader) define(id typeID) {
	if id < firstID {
		panic(malformed("a definition has a reserved number"))
	}
	if r.types[id] != nil {
		panic(malformed("a type is defined twice"))
	}
	if len(r.types) == maxTypes {
		panic(malformed("it defines too many types"))
	}
	var d *definition
	r.fields(shapes, func(i int) {
		if d != nil {
			panic(malformed("a definition has two types"))
		}
		d = &definition{shape: shape(i), types: r.types}
		r.body(d)
	})
	if d == nil {
		panic(malformed("a definition is empty"))
	}
	r.types[id] = d
}

// body reads what a definition of this shape has: the name, then the types it refers to, then a length or the fields.
func (r *reader) body(d *definition) {
	refs, more := []*typeID{&d.elem}, 0
	switch d.shape {
	case arrayShape:
		more = 1
	case structShape:
		refs, more = nil, 1
	case mapShape:
		refs = []*typeID{&d.key, &d.elem}
	case gobEncoderShape, binaryMarshalerShape, textMarshalerShape:
		refs = nil
	}
	r.fields(1+len(refs)+more, func(i int) {
		switch {
		case i == 0:
			r.common(d)
		case i <= len(refs):
			*refs[i-1] = r.typeID()
		case d.shape == arrayShape:
			d.length = r.int()
		default:
			d.fields = r.fieldDefs()
		}
	})
}

func (r *reader) common(d *definition) {
	r.fields(2, func(i int) {
		if i == 0 {
			d.name = r.string()
		} else {
			r.typeID() // again
		}
	})
}

func (r *reader) fieldDefs() []fieldDef {
	defs := make([]fieldDef, r.count(1))
	seen := map[string]bool{}
	for i := range defs {
		f := &defs[i]
		r.fields(2, func(j int) {
			if j == 0 {
				f.name = r.string()
			} else {
				f.id = r.typeID()
			}
		})
		if f.name == "" || len(f.name) > maxFieldName || strings.ContainsFunc(f.name, notInIdentifier) || seen[f.name] {
			panic(malformed("a field has an impossible name"))
		}
		seen[f.name] = true
	}
	return defs
}

// fields reads a struct of n fields: it calls field for each one that is there, in order, to read its value.
func (r *reader) fields(n int, field func(i int)) {
	for at := -1; ; {
		delta := r.uint()
		if delta == 0 {
			return
		}
		if delta > uint64(n-1-at) {
			panic(malformed("a struct has a field that its type has not"))
		}
		at += int(delta)
		field(at)
	}
}

// count reads how many elements follow, of at least size bytes each.
func (r *reader) count(size int) int {
	n := r.uint()
	if n > uint64(max(0, r.remaining()-r.owed)/size) {
		panic(malformed("a count is larger than the stream"))
	}
	return int(n)
}

func (r *reader) string() string {
	n := r.uint()
	if n > uint64(len(r.buf)) {
		panic(malformed("a string is cut off"))
	}
	s := string(r.buf[:n])
	r.buf = r.buf[n:]
	return s
}

func (r *reader) typeID() typeID {
	id := typeID(r.int())
	if id < -maxID || id > maxID {
		panic(malformed("a type has an impossible number"))
	}
	return id
}

func (r *reader) int() int64 {
	u := r.uint()
	if u&1 != 0 {
		return ^int64(u >> 1)
	}
	return int64(u >> 1)
}

// uint reads a byte below 128, or the negated count of the bytes that follow, most significant first.
func (r *reader) uint() uint64 {
	if len(r.buf) == 0 {
		panic(malformed("it is cut off"))
	}
	first := r.buf[0]
	r.buf = r.buf[1:]
	if first < 0x80 {
		return uint64(first)
	}
	n := -int(int8(first))
	if n > 8 {
		panic(malformed("a number has more than 64 bits"))
	}
	if n > len(r.buf) {
		panic(malformed("a number is cut off"))
	}
	var u uint64
	for _, b := range r.buf[:n] {
		u = u<<8 | uint64(b)
	}
	r.buf = r.buf[n:]
	return u
}

func notInIdentifier(c rune) bool { return !unicode.IsLetter(c) && !unicode.IsDigit(c) && c != '_' }

func notPrintable(c rune) bool { return c == utf8.RuneError || !unicode.IsPrint(c) }
