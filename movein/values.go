package movein

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"

	"handover.example/sessions/internal/gobvalue"
)

// values are the values of a record.
type values = map[string]json.RawMessage

// A form is a form in which the old program stores the values of a session.
type form interface {
	// read returns the values, and the text under the reserved key.
	read(plain []byte) (vals values, mark string, err error)
	// write returns the text that read reads. mark returns the text under the reserved key for the values as read will
	// return them.
	write(vals values, mark func(values) (string, error)) ([]byte, error)
}

var (
	errForm     = errors.New("not the values of a session")
	errReserved = fmt.Errorf("key %q is reserved", reserved)
)

// jsonForm is a JSON object.
type jsonForm struct{}

func (jsonForm) read(plain []byte) (vals values, mark string, err error) {
	if json.Unmarshal(plain, &vals) != nil || vals == nil {
		return nil, "", errForm
	}
	_ = json.Unmarshal(vals[reserved], &mark)
	delete(vals, reserved)
	return vals, mark, nil
}

func (jsonForm) write(vals values, mark func(values) (string, error)) ([]byte, error) {
	if _, used := vals[reserved]; used {
		return nil, errReserved
	}
	text, err := mark(vals)
	if err != nil {
		return nil, err
	}
	quoted, err := json.Marshal(text)
	if err != nil {
		return nil, err
	}
	vals = maps.Clone(vals)
	vals[reserved] = quoted
	return json.Marshal(vals)
}

// gobForm is a map[any]any in the encoding of package encoding/gob.
type gobForm struct {
	types map[string]reflect.Type
}

func (f gobForm) read(plain []byte) (vals values, mark string, err error) {
	stored, _, err := gobvalue.Parse(plain)
	if err != nil || stored.Kind() != gobvalue.Map {
		return nil, "", errForm
	}
	return f.fromGob(stored.Entries())
}

// fromGob returns the values of a map. A value that JSON cannot represent is null. Entries whose Go types
// do not follow from their JSON are under the reserved key.
func (f gobForm) fromGob(entries func(func(gobvalue.Entry) bool)) (vals values, mark string, err error) {
	vals = values{}
	var typed []gobvalue.Entry
	for e := range entries {
		key, err := e.Key.KeyText()
		switch _, twice := vals[key]; {
		case err != nil || twice:
			return nil, "", errForm
		case key == reserved:
			mark, _ = e.Value.KeyText()
			continue
		}
		var alone bool
		if vals[key], alone = f.toJSON(key, e.Value); !alone || e.Key.TypeName() != "string" {
			typed = append(typed, e)
		}
	}
	if typed == nil {
		return vals, mark, nil
	}
	text, err := gobMap(typed)
	if err != nil {
		return nil, "", err
	}
	vals[reserved], err = json.Marshal(text)
	return vals, mark, err
}

// aFloat finds numbers with a fraction or an exponent, and a few texts.
var aFloat = regexp.MustCompile(`[0-9][.e]`)

// toJSON returns the JSON of a value, and reports whether that alone is enough to write the value again, and any other
// value of its Go type. For floats it is not, because package json writes 2.0 as 2.
func (f gobForm) toJSON(key string, v gobvalue.Value) (text []byte, alone bool) {
	t := f.types[key]
	text, err := v.JSONAs(t)
	if err != nil && t != nil {
		text, err = v.JSON() // its type is not that of Types
	}
	if err != nil {
		return []byte("null"), false
	}
	switch name := v.TypeName(); {
	case t == nil && (name == "string" || name == "bool" || name == "int"):
		return text, true
	case aFloat.Match(text):
		return text, false
	}
	again, err := f.toGob(key, text, gobvalue.Value{})
	return text, err == nil && again.Equal(v)
}

// toGob returns the value of a JSON text. was is the value that it replaces.
func (f gobForm) toGob(key string, text []byte, was gobvalue.Value) (gobvalue.Value, error) {
	x, err := gobvalue.FromJSON(text, f.types[key], was)
	if err != nil || x == nil {
		return gobvalue.Value{}, err
	}
	return gobvalue.Of(&x)
}

func (f gobForm) write(vals values, mark func(values) (string, error)) ([]byte, error) {
	typed, err := typedEntries(vals[reserved])
	if err != nil {
		return nil, err
	}
	var entries []gobvalue.Entry
	for _, key := range slices.Sorted(maps.Keys(vals)) {
		if key == reserved {
			continue
		}
		was, known := typed[key]
		if !known {
			was.Key = gobvalue.StringValue(key)
		} else if text, _ := f.toJSON(key, was.Value); bytes.Equal(text, vals[key]) {
			entries = append(entries, was)
			continue
		}
		v, err := f.toGob(key, vals[key], was.Value)
		if err != nil {
			return nil, fmt.Errorf("key %q: %w (set Types, and call gob.Register as the old program does)", key, err)
		}
		entries = append(entries, gobvalue.Entry{Key: was.Key, Value: v})
	}
	again, _, err := f.fromGob(slices.Values(entries))
	if err != nil {
		return nil, err
	}
	text, err := mark(again)
	if err != nil {
		return nil, err
	}
	return gobMap(append(entries, gobvalue.Entry{Key: gobvalue.StringValue(reserved), Value: gobvalue.StringValue(text)}))
}

// typedEntries returns the entries that a record has under the reserved key, by the texts of their keys.
func typedEntries(text json.RawMessage) (map[string]gobvalue.Entry, error) {
	if text == nil {
		return nil, nil
	}
	var stream []byte
	if json.Unmarshal(text, &stream) != nil {
		return nil, errReserved
	}
	stored, _, err := gobvalue.Parse(stream)
	if err != nil || stored.Kind() != gobvalue.Map {
		return nil, errReserved
	}
	typed := map[string]gobvalue.Entry{}
	for e := range stored.Entries() {
		key, err := e.Key.KeyText()
		if err != nil {
			return nil, errReserved
		}
		typed[key] = e
	}
	return typed, nil
}

// gobMap returns a map[any]any with these entries as a gob stream.
func gobMap(entries []gobvalue.Entry) ([]byte, error) {
	empty, err := gobvalue.Of(map[any]any{})
	if err != nil {
		return nil, err
	}
	full, err := empty.WithEntries(entries)
	if err != nil {
		return nil, err
	}
	return full.Encode()
}
