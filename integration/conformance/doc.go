// Package conformance tests what Penstock promises, through its public API, on
// each kind of server in each topology (see package servers for how to choose
// them). Its tests break connections and servers on purpose, and count runs of
// handlers in the test itself, outside Redis.
//
//	what must hold                                          tests of it
//	------------------------------------------------------  -------------------------------------------------------
//	no job is lost, whoever dies                            KilledWorkers, KilledWhileItComesBack, Poison, Failovers
//	a live job is not stolen, however long it runs          LongJobs
//	an outage steals nothing: stalled, restarted, cut off   StallStealsNothing, RestartStealsNothing,
//	                                                        PartitionStealsNothing
//	a worker that lost a lease knows, and ErrLeaseLost      LateOutcomes
//	  ends its handler
//	outcomes are guarded: late ones change nothing          LateOutcomes
//	a poison job dies, its neighbours complete              Poison, Suspects
//	a retry belongs to its group, as do dead letters        Groups, SecondGroup
//	nothing is trimmed that has work in it; a full          NothingTrimmed, Full
//	  stream refuses
//	Redis may go away: down, loading, read-only, without    Restarts, ReadOnly, Failovers, LateRedis, Storm,
//	  its master, failed over, flushed; a group or stream     MissingGroup, Full
//	  that is missing is made again
//	a shutdown hands back at once, and costs no try; what   HandBack, Deploy, Stuck
//	  ignores it is named
//	dead consumers go, and take nothing along               TestDeadConsumers, HandBack, Deploy
//	Redis's clock decides when a job is due                 Deferred
//	all of a stream lies in one slot, one worker serves     ManyStreams, Migration
//	  many; scripts name their keys, so a slot may move
//	a script does not stop half-way: at maxmemory, on       Full, Forged
//	  forged data, without its cache                          Storm, Restarts, Failovers
//	nobody hoards                                           NoHoarding
//	what may have happened is not repeated blindly          LostReplies, Storm, Duplicates
//	a handler can fence: the fence grows with each          FenceGrows, MissingGroup
//	  delivery, through redrives and new groups
//	hints are hints                                         NoHints, Deferred
//	old and new versions work side by side                  OtherVersions, Forged
//	dead letters say why, come back or go                   DeadLetters, Groups, Full
//	an ID is taken while its job lives                      Duplicates
//	a cancelled job ends, wherever it is, though nobody     Cancels
//	  hears of it; its handler gets ErrCancelled
//	what a kill switch is for does not run, here or in a    Switches
//	  worker that comes later, until it is lifted
//	a tick of a schedule is one job, whoever asks for it    Ticks, Schedules
//	upkeep takes what all are done with, and what nobody    Upkeep, NothingTrimmed
//	  misses, and no more
//	the documented rights are enough, missing ones are      LimitedUser
//	  named at start
//
// A lease is ten seconds at least, so the tests of one setup all run at once,
// and setups one after the other.
package conformance
