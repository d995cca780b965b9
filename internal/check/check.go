// Package check has what constructors need to check a configuration.
package check

import (
	"errors"
	"fmt"
	"reflect"
)

// Mistakes collects the configuration errors of one constructor.
type Mistakes struct {
	// New returns the error for one mistake.
	New  func(field, reason string) error
	errs []error
}

// Add adds a mistake.
func (m *Mistakes) Add(field, format string, args ...any) {
	m.errs = append(m.errs, m.New(field, fmt.Sprintf(format, args...)))
}

// Join returns all mistakes as one error, or nil if there are none.
func (m *Mistakes) Join() error { return errors.Join(m.errs...) }

// IsNil reports whether v is nil or an interface that holds a nil pointer, such as the result of a constructor whose
// error was not checked, or a nil function, such as http.HandlerFunc(nil).
func IsNil(v any) bool {
	if v == nil {
		return true
	}
	switch rv := reflect.ValueOf(v); rv.Kind() {
	case reflect.Pointer, reflect.Func, reflect.Map, reflect.Slice, reflect.Chan:
		return rv.IsNil()
	}
	return false
}
