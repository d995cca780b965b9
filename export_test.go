package sessions

import "time"

// SetClock sets the clock of one instance: of its Manager and, if it has one, its DualStore.
func SetClock(m *Manager, d *DualStore, now func() time.Time) {
	m.limits.now = now
	if d != nil {
		d.now = now
	}
}
