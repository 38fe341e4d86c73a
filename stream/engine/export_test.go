package engine

import "time"

// The calls of scripts that have a function of their own in place of a Call.
var (
	PromoteCall = promoteCall
	OpenCall    = openCall
)

// Sources of the scripts, as they are embedded.
var Sources = sources

// Load reads a script.
func Load(name string) *Script { return load(name) }

// KnownOpt reports whether this build knows an opts key.
func KnownOpt(key string) bool { return knownOpts[key] }

// Aim is what a promoter knows of the way to Redis.
type Aim struct{ aim }

// Learn takes in that a request found Redis's clock at a time.
func (a *Aim) Learn(shown, sent, received time.Time) { a.learn(shown.UnixMicro(), sent, received) }

// Until is in how long to send.
func (a *Aim) Until(due time.Time) time.Duration { return a.until(due.UnixMilli()) }

// SetSilence is after how long without a sign of life the promoter pings.
func (p *Promoter) SetSilence(d time.Duration) { p.silence = d }
