// Package queue lets callers that change the same value take turns, in the order in which they came. The caller whose
// turn it is takes along the changes of those who wait, so that one write is enough for all of them.
package queue

import (
	"context"
	"sync"
	"time"
)

// Queue has a line of callers for each key, and keeps nothing of a key whose line is empty. The zero Queue is ready to
// use. It is safe for concurrent use, and must not be copied.
type Queue[T any] struct {
	mu   sync.Mutex
	last map[string]*Turn[T] // the end of each line
}

// Turn is the place of one caller in a line. If the turn has not begun, the caller calls [Turn.Wait]. At the end of a
// turn that has begun, it calls [Turn.Done]. A nil Turn is that of a caller without a line, for Change and Leads.
type Turn[T any] struct {
	queue *Queue[T]
	key   string
	alone bool
	asked bool       // Change has chosen the group
	group []*Turn[T] // the callers whose changes this one takes along

	// guarded by queue.mu
	next  *Turn[T]
	state state
	mail  message[T]
	wake  chan struct{} // signals mail; nil if the turn began at once
}

type state uint8

const (
	waiting state = iota
	taken         // another caller takes its change along
	begun
	gone // the caller no longer waits
)

// message tells a caller that waits what to do. A newer one replaces one that was not read.
type message[T any] struct {
	kind  kind
	value T
	err   error           // of done
	reply chan<- reply[T] // of change; it has room for the reply
}

type kind uint8

const (
	none   kind = iota
	begins      // its turn begins; value is what the caller before has left
	change      // make the change on value
	done        // its change was written with value, unless there is an error
)

type reply[T any] struct {
	value T
	made  bool // else the caller no longer waits
}

// patience is how long Change waits for the changes of others. They should not block, but they might wait for something
// that the caller of Change holds.
const patience = 100 * time.Millisecond

// Join adds the caller to the line of a key. If alone is true, the caller neither takes along the changes of others nor is
// its own taken along.
func (q *Queue[T]) Join(key string, alone bool) *Turn[T] {
	t := &Turn[T]{queue: q, key: key, alone: alone}
	q.mu.Lock()
	defer q.mu.Unlock()
	if before := q.last[key]; before != nil {
		t.wake = make(chan struct{}, 1)
		before.next = t
	}
	if q.last == nil {
		q.last = map[string]*Turn[T]{}
	}
	q.last[key] = t
	return t
}

// Begun reports whether the turn began at once.
func (t *Turn[T]) Begun() bool { return t.wake == nil }

// Wait waits until the turn begins, and returns what the caller before has left. Or it waits until another caller has
// taken the change along, and returns what that caller has written, or its error.
//
// To be taken along, Wait calls f with the value to change. It returns the changed value and does not modify the one that
// it was given. Wait calls f again if the other caller could not write the result, or has left this one in line.
//
// If f fails or the context ends, Wait leaves the line and returns that error. The change may have been written.
func (t *Turn[T]) Wait(ctx context.Context, f func(T) (T, error)) (value T, written bool, err error) {
	var asked chan<- reply[T]
	over := false
	defer func() {
		if over {
			return
		}
		if asked != nil {
			asked <- reply[T]{}
		}
		t.leave() // also if f panics
	}()
	for {
		select {
		case <-t.wake:
		case <-ctx.Done():
		}
		switch m := t.read(); m.kind {
		case begins:
			over = true
			return m.value, false, nil
		case done:
			over = true
			return m.value, true, m.err
		case change:
			asked = m.reply
			if ctx.Err() != nil {
				return value, false, ctx.Err()
			}
			changed, err := f(m.value)
			if err != nil {
				return value, false, err
			}
			asked <- reply[T]{changed, true}
			asked = nil
		case none:
			if ctx.Err() != nil {
				return value, false, ctx.Err()
			}
		}
	}
}

// read takes the message.
func (t *Turn[T]) read() (m message[T]) {
	t.queue.mu.Lock()
	defer t.queue.mu.Unlock()
	m, t.mail = t.mail, m
	return m
}

// leave leaves the line.
func (t *Turn[T]) leave() {
	t.queue.mu.Lock()
	defer t.queue.mu.Unlock()
	switch m := t.mail; m.kind { // it came in the last moment
	case begins:
		t.pass(m.value)
	case change:
		m.reply <- reply[T]{}
	}
	t.state = gone
}

// post sends a message to a caller that waits, and reports whether it still does.
func (t *Turn[T]) post(m message[T]) bool {
	if t.state == gone {
		return false
	}
	t.mail = m
	select {
	case t.wake <- struct{}{}:
	default:
	}
	return true
}

// Change makes the changes of those who wait on a value, in order, and returns the result. It runs each in the goroutine
// of its caller. If the result could not be written, the caller calls Change again with another value: the same changes
// are made on that one. Callers that fail or give up are left out, but the first call also leaves those in line that do
// not change the value within a tenth of a second; as they may still read it, Change then returns a clone.
//
// The error is that of the context.
func (t *Turn[T]) Change(ctx context.Context, value T, clone func(T) T) (T, error) {
	if t == nil || t.alone {
		return value, nil
	}
	again := t.asked
	if !again {
		t.asked = true
		t.take()
	}
	if len(t.group) == 0 {
		return value, nil
	}
	var limit <-chan time.Time
	if !again {
		timer := time.NewTimer(patience)
		defer timer.Stop()
		limit = timer.C
	}
	replies := make(chan reply[T], 1)
	group := t.group
	t.group = nil
	for i, m := range group {
		t.queue.mu.Lock()
		there := m.post(message[T]{kind: change, value: value, reply: replies})
		t.queue.mu.Unlock()
		if !there {
			continue
		}
		select {
		case r := <-replies:
			if r.made {
				value = r.value
				t.group = append(t.group, m)
			}
		case <-limit:
			t.release(group[i:])
			return clone(value), nil
		case <-ctx.Done():
			t.group = append(t.group, group[i:]...)
			return value, ctx.Err()
		}
	}
	return value, nil
}

// take chooses the group.
func (t *Turn[T]) take() {
	t.queue.mu.Lock()
	defer t.queue.mu.Unlock()
	for m := t.next; m != nil; m = m.next {
		if m.state == waiting && !m.alone {
			m.state = taken
			t.group = append(t.group, m)
		}
	}
}

// release lets callers wait for turns of their own.
func (t *Turn[T]) release(callers []*Turn[T]) {
	t.queue.mu.Lock()
	defer t.queue.mu.Unlock()
	for _, m := range callers {
		if m.state == taken {
			m.state = waiting
		}
	}
}

// Leads reports whether the turn takes along the changes of others.
func (t *Turn[T]) Leads() bool { return t != nil && len(t.group) > 0 }

// Shares reports whether other callers will get the value that is given to Done.
func (t *Turn[T]) Shares() bool {
	t.queue.mu.Lock()
	defer t.queue.mu.Unlock()
	return t.Leads() || t.following() != nil
}

// Done ends the turn. It tells the callers whose changes were taken along what was written, or the error, and leaves the
// value to the next one in line.
func (t *Turn[T]) Done(value T, err error) {
	t.queue.mu.Lock()
	defer t.queue.mu.Unlock()
	for _, m := range t.group {
		m.post(message[T]{kind: done, value: value, err: err})
	}
	t.pass(value)
}

// pass begins the next turn.
func (t *Turn[T]) pass(value T) {
	next := t.following()
	if next == nil {
		delete(t.queue.last, t.key)
		return
	}
	next.state = begun
	next.post(message[T]{kind: begins, value: value})
}

// following returns the next turn that is still to come.
func (t *Turn[T]) following() *Turn[T] {
	next := t.next
	for next != nil && next.state != waiting {
		next = next.next
	}
	return next
}
