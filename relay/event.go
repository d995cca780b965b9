package relay

import (
	"context"
	"log/slog"
	"time"

	"handover.example/sessions"
	"handover.example/sessions/internal/loglimit"
)

// EventConfirm is the kind of the events of [Confirm].
const EventConfirm sessions.EventKind = "confirm"

// The outcomes that only relay has.
const (
	OutcomeInbound  sessions.Outcome = "inbound"   // a client has sent the header to the edge
	OutcomeReadOnly sessions.Outcome = "read_only" // a change was attempted on a relayed session, which is read-only
)

// reporter emits events.
type reporter struct {
	logger  *slog.Logger
	observe func(context.Context, sessions.Event)
	limit   *loglimit.Limiter
}

func (r *reporter) tell(ctx context.Context, e sessions.Event) {
	if r.observe != nil {
		r.observe(ctx, e)
	}
}

// report emits an event, and logs a line for a person to act on.
func (r *reporter) report(ctx context.Context, level slog.Level, message string, e sessions.Event) {
	r.tell(ctx, e)
	logger := r.logger
	if logger == nil {
		logger = slog.Default()
	}
	dropped := 0
	if e.Kind == sessions.EventReject { // what a client can cause at will
		var ok bool
		if ok, dropped = r.limit.Allow(string(e.Outcome), "", time.Now()); !ok {
			return
		}
	}
	args := []any{"kind", string(e.Kind), "outcome", string(e.Outcome)}
	if e.SessionID != "" {
		args = append(args, "session", e.SessionID)
	}
	if e.Detail != "" {
		args = append(args, "detail", e.Detail)
	}
	if e.Err != nil {
		args = append(args, "error", e.Err.Error())
	}
	if dropped > 0 {
		args = append(args, "suppressed", dropped)
	}
	logger.Log(ctx, level, "relay: "+message, args...)
}
