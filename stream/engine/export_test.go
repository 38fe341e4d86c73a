package engine

import "time"

// The calls of scripts that have a function of their own in place of a Call.
var (
	PromoteCall = promoteCall
	OpenCall    = openCall
)

// Name and Source of a script.
func (s *Script) Name() string { return s.name }

func (s *Script) Source() string { return s.source }

// KnownOpt reports whether this build knows an opts key.
func KnownOpt(key string) bool { return knownOpts[key] }

// SetSilence is after how long without a sign of life the promoter pings.
func (p *Promoter) SetSilence(d time.Duration) { p.silence = d }
