package sessions

import "time"

// SetClock gives one instance a clock of its own: its Manager and, if it has one, its DualStore.
func SetClock(m *Manager, d *DualStore, now func() time.Time) {
	m.limits.now = now
	if d != nil {
		d.now = now
	}
}
