package stream_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/stream"
	"github.com/penstock-go/penstock/stream/engine"
)

// places are where a job with an ID can be, and running those where it may run though nothing of it is left.
var (
	places  = []string{"orders", "scheduled", "retrying", "redelivery", "suspects", "dead"}
	running = []string{"orders", "redelivery", "suspects"}
)

// bring publishes the job x, and has it moved to a place of group g.
func bring(t *testing.T, s *stream.Stream, rdb *redis.Client, g engine.GroupKeys, place string) {
	t.Helper()
	job := stream.Job{Type: "a", ID: "x"}
	if place == "scheduled" {
		job.Delay = time.Hour
	}
	if r := publish(t, s, job); r[0].Duplicate {
		t.Fatalf("%+v", r)
	}
	switch place {
	case "scheduled":
		return
	case "orders": // a stream that was deleted gives out IDs anew: it must not give this one to the next job
		for published := rdb.Time(t.Context()).Val().UnixMilli(); rdb.Time(t.Context()).Val().UnixMilli() == published; {
		}
		return
	}
	d := read(t, s, s.Name(), "g", 1)[0]
	switch place {
	case "retrying":
		call(t, s, engine.RetryCall(d.Held, g, "x", time.Hour, d.entry))
	case "redelivery":
		call(t, s, engine.ReleaseCall(d.Held, g, "x", d.entry))
	case "suspects":
		call(t, s, engine.SuspectCall(d.Held, g, "x", d.entry))
	case "dead":
		kill(t, s, g, d, "{}")
	}
}

// keysOf are the keys of a place, and at is what ids says where in it x is.
func keysOf(keys engine.Keys, g engine.GroupKeys, place string) []string {
	return map[string][]string{
		"orders": {keys.Stream}, "scheduled": {keys.Scheduled, keys.ScheduledJobs}, "retrying": {g.Retrying, g.RetryingJobs},
		"redelivery": {g.Redelivery}, "suspects": {g.Suspects}, "dead": {g.Dead},
	}[place]
}

func at(t *testing.T, rdb *redis.Client, keys engine.Keys) string {
	t.Helper()
	_, at, _ := engine.SplitWhere(rdb.HGet(t.Context(), keys.IDs, "x").Val())
	return at
}

// age lets a minute pass since x was missed, if it was.
func age(t *testing.T, rdb *redis.Client, keys engine.Keys) {
	t.Helper()
	record, _ := strings.CutPrefix(rdb.Get(t.Context(), keys.Job("x")).Val(), "missed ")
	at, where, ok := strings.Cut(record, " ")
	if !ok {
		return
	}
	ms, err := strconv.ParseInt(at, 10, 64)
	if err != nil {
		t.Fatal(record, err)
	}
	rdb.Set(t.Context(), keys.Job("x"), fmt.Sprintf("missed %d %s", ms-time.Minute.Milliseconds(), where), time.Hour)
}

// stands checks that x is a duplicate, however it is published.
func stands(t *testing.T, s *stream.Stream, when string) {
	t.Helper()
	for _, job := range []stream.Job{{Type: "a", ID: "x"}, {Type: "a", ID: "x", Delay: time.Hour}} {
		if r, err := s.Publish(t.Context(), job); err != nil || !r.Duplicate {
			t.Errorf("%s: %+v, %v, want a duplicate", when, r, err)
		}
		if r, err := s.PublishAll(t.Context(), []stream.Job{job, {Type: "b"}}); err != nil || !r[0].Duplicate {
			t.Errorf("%s, in a slice: %+v, %v, want a duplicate", when, r, err)
		}
	}
}

// TestDeletedByHandFreesTheID: a job that somebody deleted where it was does not stand in the way of another with its ID.
func TestDeletedByHandFreesTheID(t *testing.T) {
	t.Parallel()
	for _, place := range places {
		for how, meddle := range map[string]func(t *testing.T, rdb *redis.Client, at string, keys []string){
			"key deleted": func(t *testing.T, rdb *redis.Client, _ string, keys []string) { rdb.Del(t.Context(), keys...) },
			"job deleted": func(t *testing.T, rdb *redis.Client, at string, keys []string) {
				if len(keys) == 1 {
					rdb.XDel(t.Context(), keys[0], at)
					return
				}
				rdb.ZRem(t.Context(), keys[0], "x")
				rdb.HDel(t.Context(), keys[1], "x")
			},
		} {
			for by, again := range map[string]func(t *testing.T, s *stream.Stream) (stream.Receipt, error){
				"one": func(t *testing.T, s *stream.Stream) (stream.Receipt, error) {
					return s.Publish(t.Context(), stream.Job{Type: "a", ID: "x"})
				},
				"later": func(t *testing.T, s *stream.Stream) (stream.Receipt, error) {
					return s.Publish(t.Context(), stream.Job{Type: "a", ID: "x", Delay: time.Hour})
				},
				"slice": func(t *testing.T, s *stream.Stream) (stream.Receipt, error) {
					all, err := s.PublishAll(t.Context(), []stream.Job{{Type: "b"}, {Type: "a", ID: "fresh"}, {Type: "a", ID: "x"}, {Type: "a", ID: "x"}})
					if all[0].Duplicate || all[1].Duplicate || !all[3].Duplicate {
						t.Errorf("%+v, want the last alone to be a duplicate", all)
					}
					return all[2], err
				},
			} {
				t.Run(strings.Join([]string{place, how, by}, "/"), func(t *testing.T) {
					t.Parallel()
					s, rdb := open(t, stream.Config{})
					keys, g := engine.NewKeys(s.Name()), group(t, s, "g")
					bring(t, s, rdb, g, place)
					stands(t, s, "before")
					meddle(t, rdb, at(t, rdb, keys), keysOf(keys, g, place))
					if slices.Contains(running, place) {
						stands(t, s, "until a lease has passed since it was missed")
						age(t, rdb, keys)
					}
					if r, err := again(t, s); err != nil || r.Duplicate || r.ID != "x" {
						t.Fatalf("%+v, %v, want it stored", r, err)
					}
					stands(t, s, "afterwards")
					if n := length(t, rdb, s.Name()) + rdb.ZCard(t.Context(), keys.Scheduled).Val(); by != "slice" && n < 1 {
						t.Errorf("%d jobs", n)
					}
				})
			}
		}
	}
}

// TestStandingJobsKeepTheirID: what is not certain to be gone is a duplicate.
func TestStandingJobsKeepTheirID(t *testing.T) {
	t.Parallel()
	now := func(t *testing.T, rdb *redis.Client) int64 { return rdb.Time(t.Context()).Val().UnixMilli() }
	for name, c := range map[string]struct {
		place  string
		meddle func(t *testing.T, s *stream.Stream, rdb *redis.Client, keys engine.Keys, g engine.GroupKeys)
		free   func(t *testing.T, s *stream.Stream, rdb *redis.Client, keys engine.Keys, g engine.GroupKeys) // after which it isn't
	}{
		"its body is there": {"scheduled", func(t *testing.T, s *stream.Stream, rdb *redis.Client, keys engine.Keys, g engine.GroupKeys) {
			rdb.Del(t.Context(), keys.Scheduled)
		}, func(t *testing.T, s *stream.Stream, rdb *redis.Client, keys engine.Keys, g engine.GroupKeys) {
			rdb.Del(t.Context(), keys.ScheduledJobs)
		}},
		"its body is there, to be tried again": {"retrying", func(t *testing.T, s *stream.Stream, rdb *redis.Client, keys engine.Keys, g engine.GroupKeys) {
			rdb.ZRem(t.Context(), g.Retrying, "x")
		}, func(t *testing.T, s *stream.Stream, rdb *redis.Client, keys engine.Keys, g engine.GroupKeys) {
			rdb.HDel(t.Context(), g.RetryingJobs, "x")
		}},
		"it is pending in the stream": {"orders", func(t *testing.T, s *stream.Stream, rdb *redis.Client, keys engine.Keys, g engine.GroupKeys) {
			rdb.XDel(t.Context(), s.Name(), read(t, s, s.Name(), "g", 1)[0].Entry)
			age(t, rdb, keys)
		}, func(t *testing.T, s *stream.Stream, rdb *redis.Client, keys engine.Keys, g engine.GroupKeys) {
			rdb.XAck(t.Context(), s.Name(), "g", at(t, rdb, keys))
			stands(t, s, "missed just now")
		}},
		"a worker runs what is gone from the stream": {"orders", func(t *testing.T, s *stream.Stream, rdb *redis.Client, keys engine.Keys, g engine.GroupKeys) {
			rdb.Del(t.Context(), s.Name())
			rdb.HSet(t.Context(), g.Workers, "g:w", fmt.Sprintf(`{"at":%d,"beat":7,"lease":30000,"gone":0}`, now(t, rdb)))
			stands(t, s, "at first")
			rdb.HSet(t.Context(), g.Workers, "g:w", fmt.Sprintf(`{"at":%d,"beat":8,"lease":30000,"gone":1}`, now(t, rdb)+40000))
			age(t, rdb, keys)
		}, func(t *testing.T, s *stream.Stream, rdb *redis.Client, keys engine.Keys, g engine.GroupKeys) {
			rdb.HSet(t.Context(), g.Workers, "g:w", fmt.Sprintf(`{"at":%d,"beat":9,"lease":30000,"gone":0}`, now(t, rdb)+50000))
		}},
		"no group was ever made": {"orders", func(t *testing.T, s *stream.Stream, rdb *redis.Client, keys engine.Keys, g engine.GroupKeys) {
			rdb.Del(t.Context(), s.Name(), keys.Config)
		}, func(*testing.T, *stream.Stream, *redis.Client, engine.Keys, engine.GroupKeys) {}},
		"it is in its set": {"retrying", func(t *testing.T, s *stream.Stream, rdb *redis.Client, keys engine.Keys, g engine.GroupKeys) {
			rdb.Del(t.Context(), g.RetryingJobs)
		}, nil},
		"another place is deleted": {"dead", func(t *testing.T, s *stream.Stream, rdb *redis.Client, keys engine.Keys, g engine.GroupKeys) {
			rdb.Del(t.Context(), keys.Scheduled, g.Retrying, g.Redelivery, g.Suspects)
		}, nil},
		"it is pending": {"redelivery", func(t *testing.T, s *stream.Stream, rdb *redis.Client, keys engine.Keys, g engine.GroupKeys) {
			rdb.XDel(t.Context(), g.Redelivery, read(t, s, g.Redelivery, "g", 1)[0].Entry)
		}, func(t *testing.T, s *stream.Stream, rdb *redis.Client, keys engine.Keys, g engine.GroupKeys) {
			rdb.XAck(t.Context(), g.Redelivery, "g", at(t, rdb, keys))
			stands(t, s, "missed just now")
		}},
		"its group is no longer there": {"dead", func(t *testing.T, s *stream.Stream, rdb *redis.Client, keys engine.Keys, g engine.GroupKeys) {
			rdb.XGroupDestroy(t.Context(), s.Name(), "g")
			group(t, s, "h")
		}, func(t *testing.T, s *stream.Stream, rdb *redis.Client, keys engine.Keys, g engine.GroupKeys) {
			rdb.XTrimMaxLen(t.Context(), g.Dead, 0)
		}},
		"the config is deleted": {"dead", func(t *testing.T, s *stream.Stream, rdb *redis.Client, keys engine.Keys, g engine.GroupKeys) {
			rdb.Del(t.Context(), keys.Config)
		}, func(t *testing.T, s *stream.Stream, rdb *redis.Client, keys engine.Keys, g engine.GroupKeys) {
			rdb.Del(t.Context(), g.Dead)
		}},
		"no group is known": {"dead", func(t *testing.T, s *stream.Stream, rdb *redis.Client, keys engine.Keys, g engine.GroupKeys) {
			rdb.Del(t.Context(), keys.Config, s.Name())
		}, nil},
		"its place is of a later version": {"dead", func(t *testing.T, s *stream.Stream, rdb *redis.Client, keys engine.Keys, g engine.GroupKeys) {
			rdb.HSet(t.Context(), keys.IDs, "x", "blocked 7-7")
		}, nil},
		"its place has another type": {"dead", func(t *testing.T, s *stream.Stream, rdb *redis.Client, keys engine.Keys, g engine.GroupKeys) {
			rdb.Del(t.Context(), g.Dead)
			rdb.Set(t.Context(), g.Dead, "oops", 0)
		}, nil},
		"a worker was not heard of since": {"suspects", func(t *testing.T, s *stream.Stream, rdb *redis.Client, keys engine.Keys, g engine.GroupKeys) {
			rdb.HSet(t.Context(), g.Workers, "g:w", fmt.Sprintf(`{"at":%d,"beat":7,"lease":30000,"gone":0}`, now(t, rdb)))
			rdb.Del(t.Context(), g.Suspects)
		}, func(t *testing.T, s *stream.Stream, rdb *redis.Client, keys engine.Keys, g engine.GroupKeys) {
			rdb.HSet(t.Context(), g.Workers, "g:w", fmt.Sprintf(`{"at":%d,"beat":8,"lease":30000,"gone":0}`, now(t, rdb)+30000))
		}},
		"a worker was heard of too soon": {"redelivery", func(t *testing.T, s *stream.Stream, rdb *redis.Client, keys engine.Keys, g engine.GroupKeys) {
			rdb.Del(t.Context(), g.Redelivery)
			rdb.HSet(t.Context(), g.Workers, "g:w", fmt.Sprintf(`{"at":%d,"beat":7,"lease":30000,"gone":0}`, now(t, rdb)))
			stands(t, s, "at first")
			rdb.HSet(t.Context(), g.Workers, "g:w", fmt.Sprintf(`{"at":%d,"beat":8,"lease":30000,"gone":0}`, now(t, rdb)+20000))
		}, nil},
		"a worker runs what is gone": {"redelivery", func(t *testing.T, s *stream.Stream, rdb *redis.Client, keys engine.Keys, g engine.GroupKeys) {
			rdb.Del(t.Context(), g.Redelivery)
			rdb.HSet(t.Context(), g.Workers, "g:w", fmt.Sprintf(`{"at":%d,"beat":7,"lease":30000,"gone":0}`, now(t, rdb)))
			stands(t, s, "at first")
			rdb.HSet(t.Context(), g.Workers, "g:w", fmt.Sprintf(`{"at":%d,"beat":8,"lease":30000,"gone":1}`, now(t, rdb)+40000))
		}, func(t *testing.T, s *stream.Stream, rdb *redis.Client, keys engine.Keys, g engine.GroupKeys) {
			rdb.HSet(t.Context(), g.Workers, "g:w", fmt.Sprintf(`{"at":%d,"beat":9,"lease":30000,"gone":0}`, now(t, rdb)+50000))
		}},
		"a worker of another version does not say": {"redelivery", func(t *testing.T, s *stream.Stream, rdb *redis.Client, keys engine.Keys, g engine.GroupKeys) {
			rdb.Del(t.Context(), g.Redelivery)
			rdb.HSet(t.Context(), g.Workers, "g:w", fmt.Sprintf(`{"at":%d,"beat":7,"lease":30000}`, now(t, rdb)))
			stands(t, s, "at first")
			rdb.HSet(t.Context(), g.Workers, "g:w", fmt.Sprintf(`{"at":%d,"beat":8,"lease":30000}`, now(t, rdb)+40000))
		}, func(t *testing.T, s *stream.Stream, rdb *redis.Client, keys engine.Keys, g engine.GroupKeys) {
			rdb.HSet(t.Context(), g.Workers, "g:w", fmt.Sprintf(`{"at":%d,"beat":8,"lease":30000}`, now(t, rdb)-5*30000-1000)) // dead long since
		}},
		"it has completed": {"redelivery", func(t *testing.T, s *stream.Stream, rdb *redis.Client, keys engine.Keys, g engine.GroupKeys) {
			d := read(t, s, g.Redelivery, "g", 1)[0]
			call(t, s, engine.CompleteCall(d.Held, g, "completed", engine.End{Entry: d.Entry, ID: "x", Indexed: true, Keep: time.Minute}))
			rdb.Del(t.Context(), g.Redelivery)
		}, func(t *testing.T, s *stream.Stream, rdb *redis.Client, keys engine.Keys, g engine.GroupKeys) {
			rdb.Del(t.Context(), keys.Job("x"))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, rdb := open(t, stream.Config{})
			keys, g := engine.NewKeys(s.Name()), group(t, s, "g")
			bring(t, s, rdb, g, c.place)
			c.meddle(t, s, rdb, keys, g)
			stands(t, s, "meddled with")
			if c.free == nil {
				return
			}
			c.free(t, s, rdb, keys, g)
			age(t, rdb, keys)
			if r, err := s.Publish(t.Context(), stream.Job{Type: "a", ID: "x"}); err != nil || r.Duplicate {
				t.Errorf("when it is gone for certain: %+v, %v", r, err)
			}
			if n := rdb.Exists(t.Context(), keys.Job("x")).Val(); n != 0 {
				t.Error("a record is left behind")
			}
		})
	}
}

// TestStandingJobsOfEvents: there the index of the stream says where its entry is, and nothing of the groups.
func TestStandingJobsOfEvents(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, stream.Config{Kind: stream.KindEvents})
	keys := engine.NewKeys(s.Name())
	g, h := group(t, s, "g"), group(t, s, "h")
	publish(t, s, stream.Job{Type: "a", ID: "x"})
	for _, name := range []string{"g", "h"} {
		d := read(t, s, s.Name(), name, 1)[0]
		d.Delete = false
		kill(t, s, map[string]engine.GroupKeys{"g": g, "h": h}[name], d, "{}")
	}
	stands(t, s, "dead in both groups")
	rdb.Del(t.Context(), g.Dead)
	stands(t, s, "deleted in one group")
	rdb.Del(t.Context(), h.Dead)
	stands(t, s, "while its entry is there")
	for _, delay := range []time.Duration{0, time.Hour} {
		rdb.XTrimMaxLen(t.Context(), s.Name(), 0)
		for _, by := range []*stream.Stream{s, over(t, rdb, s.Name(), stream.Config{})} { // the second does not know what kind it is
			if r, err := by.Publish(t.Context(), stream.Job{Type: "a", ID: "x", Delay: delay}); err != nil || r.Duplicate != (by != s) {
				t.Errorf("once its entry is gone: %+v, %v", r, err)
			}
		}
	}
	publish(t, s, stream.Job{Type: "a", ID: "later", Delay: time.Hour})
	rdb.Del(t.Context(), keys.Scheduled, keys.ScheduledJobs)
	if r, err := s.Publish(t.Context(), stream.Job{Type: "a", ID: "later"}); err != nil || r.Duplicate {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestFreeNeedsNoRights: a publisher that may not look says that the job stands, as it would have without looking.
func TestFreeNeedsNoRights(t *testing.T) {
	t.Parallel()
	server := redistest.Server(t)
	rdb := redistest.Connect(t, &redis.Options{Addr: server.Addr()})
	s := over(t, rdb, "orders", stream.Config{})
	keys, g := engine.NewKeys("orders"), group(t, s, "g")
	bring(t, s, rdb, g, "dead")
	rdb.Del(t.Context(), g.Dead)
	for name, rules := range map[string][]any{
		"config": {"~orders", "~" + keys.IDs, "~" + keys.Job("*"), "~" + g.Marks},
		"groups": {"~orders", "~" + keys.IDs, "~" + keys.Job("*"), "~" + g.Marks, "~" + keys.Config},
	} {
		if err := rdb.Do(t.Context(), append([]any{"ACL", "SETUSER", name, "on", "nopass", "+@all"}, rules...)...).Err(); err != nil {
			t.Fatal(err)
		}
		meek := over(t, redistest.Connect(t, &redis.Options{Addr: server.Addr(), Username: name, Password: "x"}), "orders", stream.Config{})
		if r, err := meek.Publish(t.Context(), stream.Job{Type: "a", ID: "x"}); err != nil || !r.Duplicate || r.State != stream.Dead {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
		if r, err := meek.Publish(t.Context(), stream.Job{Type: "a", ID: name}); err != nil || r.Duplicate {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
	if r, err := s.Publish(t.Context(), stream.Job{Type: "a", ID: "x"}); err != nil || r.Duplicate {
		t.Errorf("who may look: %+v, %v", r, err)
	}
}

// TestFreeTogether: of many who publish the same ID at once, when its job was deleted, one stores it.
func TestFreeTogether(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, stream.Config{})
	keys, g := engine.NewKeys(s.Name()), group(t, s, "g")
	for round := range 30 {
		place := places[round%len(places)]
		bring(t, s, rdb, g, place)
		rdb.Del(t.Context(), keysOf(keys, g, place)...)
		group(t, s, "g")
		if slices.Contains(running, place) {
			stands(t, s, "missed just now")
			age(t, rdb, keys)
		}
		before := length(t, rdb, s.Name())
		var stored atomic.Int64
		var all sync.WaitGroup
		start := make(chan struct{})
		for i := range 12 {
			all.Go(func() {
				job := stream.Job{Type: "a", ID: "x"}
				<-start
				receipts := make([]stream.Receipt, 1)
				var err error
				if i%2 == 0 {
					receipts[0], err = s.Publish(t.Context(), job)
				} else {
					receipts, err = s.PublishAll(t.Context(), []stream.Job{job, job})
				}
				if err != nil {
					t.Error(err)
				}
				for _, r := range receipts {
					if !r.Duplicate {
						stored.Add(1)
					}
					if r.State != stream.Waiting { // and not what it was when it was deleted
						t.Errorf("%s: %+v", place, r)
					}
				}
			})
		}
		close(start)
		all.Wait()
		if n := length(t, rdb, s.Name()) - before; n != 1 || stored.Load() != 1 {
			t.Fatalf("%s: %d jobs, %d receipts say so, want one", place, n, stored.Load())
		}
		rdb.Del(t.Context(), s.Name(), keys.IDs)
		group(t, s, "g")
	}
}

// trips is a hook that counts round trips, those that make a connection left out.
type trips struct{ n, scripts atomic.Int64 }

func (c *trips) DialHook(next redis.DialHook) redis.DialHook { return next }

func (c *trips) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error { c.count(cmds[0]); return next(ctx, cmds) }
}

func (c *trips) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error { c.count(cmd); return next(ctx, cmd) }
}

func (c *trips) count(cmd redis.Cmder) {
	if name := cmd.Name(); name != "hello" && name != "client" {
		c.n.Add(1)
		if strings.HasPrefix(name, "eval") {
			c.scripts.Add(1)
		}
	}
}

// TestDuplicatesAskOnce: a job whose ID is taken by one that lies in the stream costs one script, read or not.
func TestDuplicatesAskOnce(t *testing.T) {
	t.Parallel()
	s, _ := open(t, stream.Config{})
	group(t, s, "g")
	jobs := []stream.Job{{Type: "a", ID: "x"}, {Type: "a", ID: "y"}, {Type: "a", ID: "z"}}
	publish(t, s, append(jobs, stream.Job{Type: "a", ID: "later", Delay: time.Hour})...) // so that the server knows both scripts
	read(t, s, s.Name(), "g", 2)
	rdb := redistest.Client(t)
	through := over(t, rdb, s.Name(), stream.Config{})
	var c trips
	rdb.AddHook(&c)
	jobs[1].Delay = time.Hour
	for i, job := range jobs {
		if r, err := through.Publish(t.Context(), job); err != nil || !r.Duplicate {
			t.Errorf("%+v, %v", r, err)
		}
		if n := c.scripts.Load(); n != int64(i+1) {
			t.Errorf("%d scripts for %d duplicates", n, i+1)
		}
	}
	if receipts, err := through.PublishAll(t.Context(), jobs); err != nil || !receipts[0].Duplicate || !receipts[1].Duplicate || !receipts[2].Duplicate {
		t.Errorf("%+v, %v", receipts, err)
	}
	if n := c.scripts.Load(); n != int64(len(jobs)+1) {
		t.Errorf("%d round trips with scripts for %d duplicates and a slice of them", n, len(jobs))
	}
}

// TestFreeRoundTrips: what is no duplicate pays nothing, and a slice whose IDs all were deleted a few round trips.
func TestFreeRoundTrips(t *testing.T) {
	t.Parallel()
	s, rdb := open(t, stream.Config{})
	g := group(t, s, "g")
	count := func(most int64, jobs ...stream.Job) {
		t.Helper()
		var c trips
		rdb := redistest.Client(t)
		rdb.AddHook(&c)
		receipts, err := over(t, rdb, s.Name(), stream.Config{}).PublishAll(t.Context(), jobs)
		if err != nil {
			t.Fatal(err)
		}
		for i, r := range receipts {
			if r.Duplicate {
				t.Errorf("job %d: %+v", i, r)
			}
		}
		if n := c.n.Load(); n > most {
			t.Errorf("%d round trips for %d jobs, want at most %d", n, len(jobs), most)
		}
	}
	var jobs []stream.Job
	for i := range 200 {
		jobs = append(jobs, stream.Job{Type: "a", ID: fmt.Sprint("job-", i)})
	}
	count(2, jobs[:100]...) // the script may be new to the server
	count(2, jobs[100:]...)
	for _, d := range read(t, s, s.Name(), "g", 200) {
		kill(t, s, g, d, "{}")
	}
	rdb.Del(t.Context(), g.Dead)
	count(1+2+2+1, jobs...) // stored? which groups, free, stored now
}
