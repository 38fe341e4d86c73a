package engine

import "time"

const (
	aimFor   = 2 * time.Second       // how long one measurement is thought to be right: clocks drift
	aimSlack = 20 * time.Microsecond // behind the due time rather than before it, which would cost another try
)

// aim knows when to send a request so that it reaches Redis as Redis's clock shows a certain time. What it knows is the quickest
// of the last answers: how far Redis's clock, as the request arrived, was ahead of ours, as it was sent. So neither
// the way there nor the difference of the clocks need be known by itself.
type aim struct {
	ahead time.Duration // Redis's clock on arrival − ours on sending
	took  time.Duration // the whole round trip
	at    time.Time
}

// learn takes in that a request sent then found Redis's clock at micros µs since 1970.
func (a *aim) learn(micros int64, sent, received time.Time) {
	took, ahead := received.Sub(sent), time.UnixMicro(micros).Sub(sent.Round(0))
	set := (ahead - a.ahead).Abs() > took+a.took // by more than trips explain: one of the clocks was set
	if a.at.IsZero() || took <= a.took || set || received.Sub(a.at) > aimFor {
		*a = aim{ahead, took, received}
	}
}

// until is in how long to send what is to arrive at due, in ms since 1970.
func (a *aim) until(due int64) time.Duration {
	us := due*1000 - time.Now().Round(0).Add(a.ahead).UnixMicro()
	return time.Duration(min(max(us, 1), promoteRefresh.Microseconds()))*time.Microsecond + aimSlack // a duration ends after 292 years
}
