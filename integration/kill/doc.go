// Package kill runs Penstock's own program as a fleet of processes under load,
// strikes it with faults, and balances the books afterwards.
//
//   - A [Plan] says which fault happens when. It comes from a seed: the same
//     seed makes the same plan. Faults are [Actions] by name.
//   - A [Driver] owns the processes: a Redis of its own, which keeps its data in
//     an append-only file, workers and a scheduler that are started again
//     whenever they end, and the publishers. It carries the plan out.
//   - A [ledger.Ledger] records what publishers and handlers saw, in one order, outside
//     of Redis: the handlers report to it through a socket before they do anything.
//   - [Check] takes all that is known ([Books]) and returns what cannot be right
//     ([Finding]). It is a pure function, so that it can be tried on books that are wrong.
//
// Each job is run by a process of the program in the folder handler, which does what the job's
// data says: take a while, fail, ignore signals, have its worker killed.
//
// From the repository's root, for any length, with a plan of your own or one to repeat:
//
//	make kill FOR=2h SEED=7
//
// The tests run any other build of the program with -penstock=path.
package kill
