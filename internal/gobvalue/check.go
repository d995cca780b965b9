package gobvalue

import (
	"encoding"
	"encoding/gob"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
)

// CheckRestorable returns an error if the JSON of v, with t as for [Value.JSONAs], does not give v again: for example
// because it contains an array in an interface, or because this program does not register its type.
func (v Value) CheckRestorable(t reflect.Type) error {
	data, err := v.JSONAs(t)
	if err != nil {
		return err
	}
	x, err := FromJSON(data, t, v)
	if err != nil {
		return err
	}
	w, err := Of(&x)
	if err != nil {
		return err
	}
	if !v.Equal(w) {
		return fmt.Errorf("%s is not the same after JSON", v.describe())
	}
	return nil
}

// CheckType returns an error if values of the type of x cannot be values of a session: the type is not registered with
// encoding/gob, or JSON changes values of it. It tries a value in which each exported field is set. Types with their own
// methods for gob or JSON have the value that they have in x, as not every value may be a valid one.
func CheckType(x any) error {
	t := reflect.TypeOf(x)
	if t == nil {
		return errors.New("nil has no type")
	}
	sample := reflect.New(t).Elem()
	sample.Set(reflect.ValueOf(x))
	if err := fill(sample, sampleDepth); err != nil {
		return err
	}
	before := sample.Interface()
	v, err := Of(&before)
	if err != nil {
		if strings.Contains(err.Error(), "not registered for interface") {
			return fmt.Errorf("type %s is not registered with encoding/gob: call gob.Register as the old program does", t)
		}
		return err
	}
	data, err := v.JSONAs(t)
	if err != nil {
		return err
	}
	after, err := FromJSON(data, t, Value{})
	if err != nil {
		return err
	}
	if !reflect.DeepEqual(before, after) {
		return fmt.Errorf("JSON changes values of type %s%s", t, changedField(sample, reflect.ValueOf(after)))
	}
	return nil
}

// changedField names the first field that differs, if a and b are structs.
func changedField(a, b reflect.Value) string {
	a, b = reflect.Indirect(a), reflect.Indirect(b)
	if a.Kind() != reflect.Struct || a.Type() != b.Type() {
		return ""
	}
	for _, f := range reflect.VisibleFields(a.Type()) {
		if len(f.Index) == 1 && f.IsExported() && !reflect.DeepEqual(a.FieldByIndex(f.Index).Interface(), b.FieldByIndex(f.Index).Interface()) {
			return ": its field " + f.Name
		}
	}
	return ""
}

// sampleDepth is how deep fill goes into a type, which may be recursive.
const sampleDepth = 4

// fill sets what of v can be set to values that are not zero.
func fill(v reflect.Value, depth int) error {
	t := v.Type()
	ownGob := marshals[gob.GobEncoder](t) || marshals[encoding.BinaryMarshaler](t)
	ownJSON := marshals[json.Marshaler](t) || marshals[encoding.TextMarshaler](t)
	switch {
	case ownGob && !ownJSON:
		return fmt.Errorf("type %s has its own encoding for gob, but none for JSON", t)
	case ownGob || ownJSON:
		return nil
	case depth <= 0 && (t.Kind() != reflect.Pointer || depth < -sampleDepth): // encoding/gob refuses most nil pointers
		return nil
	}
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(1)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		v.SetUint(1)
	case reflect.Float32, reflect.Float64:
		v.SetFloat(0.5)
	case reflect.String:
		v.SetString("text")
	case reflect.Interface:
		if t == anyType {
			v.Set(reflect.ValueOf(1))
		}
	case reflect.Pointer:
		p := reflect.New(t.Elem())
		v.Set(p)
		return fill(p.Elem(), depth-1)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(t, 1, 1))
		return fill(v.Index(0), depth-1)
	case reflect.Array:
		for i := range v.Len() {
			if err := fill(v.Index(i), depth); err != nil {
				return err
			}
		}
	case reflect.Map:
		key, elem := reflect.New(t.Key()).Elem(), reflect.New(t.Elem()).Elem()
		err := errors.Join(fill(key, depth-1), fill(elem, depth-1))
		v.Set(reflect.MakeMap(t))
		v.SetMapIndex(key, elem)
		return err
	case reflect.Struct:
		for _, f := range reflect.VisibleFields(t) {
			if len(f.Index) > 1 || !f.IsExported() {
				continue
			}
			if err := fill(v.FieldByIndex(f.Index), depth-1); err != nil {
				return err
			}
		}
	}
	return nil
}
