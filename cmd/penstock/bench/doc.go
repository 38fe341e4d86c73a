// Package bench measures what Penstock costs against yardsticks: what Redis
// and go-redis allow with nothing around them. Contender and yardstick take
// turns within one run, so that a machine that is slow now is slow for both,
// and what is reported is the median of the ratios of such pairs.
//
// A Case is one measurement with its contenders. Others, such as job engines to
// compare with, are more Contenders in Case.Contenders:
//
//	h, err := bench.New(bench.Config{Client: rdb})
//	…
//	cases, err := h.Cases("drain", "latency")
//	cases[0].Contenders = append(cases[0].Contenders, bench.Contender{Name: "asynq", Run: drainAsynq})
//	report, err := h.Run(ctx, cases)
//	err = errors.Join(err, h.Close(ctx))
//
// Timed times a contender that works jobs off; Trips and Send measure latencies, and LateTrips lateness.
//
// The yardsticks are:
//
//   - drain: two readers, each XREADGROUP COUNT 200, then one XACK and one XDEL for all 200 in a pipeline
//   - drain with a result kept for each job: the same, and SET … EX for each of the 200
//   - publish: XADD of the same four fields by as many callers; for slices, pipelines of 1,000 of them
//   - latency: XADD to the answer of a blocked XREADGROUP, at the same rate
//   - memory: an entry of the same four fields by plain XADD
//
// All keys begin with a random prefix, and Close removes them.
package bench
