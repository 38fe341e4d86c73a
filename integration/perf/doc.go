// Command perf measures Penstock beside other job engines, with processes that
// are killed, and as what there is to do grows. What it adds to package
// cmd/penstock/bench, whose cases it runs as they are, needs modules and
// programs that the product must not depend on.
//
//	go -C integration run ./perf                                   # everything, as make bench does
//	go -C integration run ./perf drain latency                     # some of it
//	go -C integration run ./perf backlog --full                    # up to 10 million jobs
//	go -C integration run ./perf --page ../docs/PERFORMANCE.md     # write it down, as make perf does
//
// It starts a Redis server of its own, in memory. All engines are measured on
// it, in turns: Penstock, its yardstick, another engine, the yardstick again,
// and so on. All but BullMQ, which is a program for Node, use the same client.
package main
