package billing

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"testing"
	"time"

	_ "modernc.org/sqlite" // a driver

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/consumer"
	"github.com/penstock-go/penstock/stream"
)

func TestMain(m *testing.M) { redistest.Main(m) }

func open(t *testing.T) *Books {
	t.Helper()
	db, err := sql.Open("sqlite", t.TempDir()+"/books.db?_pragma=busy_timeout(5000)")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	if _, err := db.ExecContext(t.Context(), Schema+`INSERT INTO accounts VALUES (1, 0)`); err != nil {
		t.Fatal(err)
	}
	return &Books{db}
}

func (b *Books) value(t *testing.T, query string) string {
	t.Helper()
	var v string
	if err := b.DB.QueryRowContext(t.Context(), query).Scan(&v); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return v
}

// delivery is a run of a job with that fence.
func delivery[T any](id string, fence int64, data T) *consumer.Job[T] {
	return &consumer.Job[T]{Delivery: &consumer.Delivery{Stream: "orders", Group: "billing", ID: id, Fence: fence}, Data: data}
}

// TestPayTwice: two runs of a job book one payment, and two jobs two.
func TestPayTwice(t *testing.T) {
	t.Parallel()
	b := open(t)
	for i, id := range []string{"a", "a", "b", "a"} {
		if err := b.Pay(t.Context(), delivery(id, int64(i), Payment{Account: 1, Cents: 100})); err != nil {
			t.Fatal(err)
		}
	}
	if got := b.value(t, `SELECT cents FROM accounts`); got != "200" {
		t.Errorf("booked %s cents, want 200", got)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.Pay(ended, delivery("c", 1, Payment{Account: 1, Cents: 100})); err == nil || b.value(t, `SELECT count(*) FROM booked`) != "2" {
		t.Errorf("%v: a mark without its payment", err)
	}
}

// TestLateReport: what an earlier run of a job writes late does not overwrite what a later one wrote.
func TestLateReport(t *testing.T) {
	t.Parallel()
	b := open(t)
	for _, run := range []struct {
		fence int64
		month string
		want  error
	}{{5, "first", nil}, {5, "once more", nil}, {1 << 32, "later", nil}, {6, "late", errLate}, {1<<32 - 1, "late too", errLate}} {
		if err := b.BuildReport(t.Context(), delivery("r", run.fence, Report{run.month})); !errors.Is(err, run.want) || run.want == nil && err != nil {
			t.Errorf("fence %d: %v, want %v", run.fence, err, run.want)
		}
	}
	if got := b.value(t, `SELECT body FROM reports`); got != "later: 0.00" {
		t.Errorf("the report is %q", got)
	}
}

// TestOnceInSQL takes the store through what may happen to one piece of work.
func TestOnceInSQL(t *testing.T) {
	t.Parallel()
	first := consumer.OnceClaim{Key: "k", Job: "a", Fence: 9, Run: "r1", Lease: time.Minute}
	later, other, brief := first, first, first
	later.Fence, later.Run = 10, "r2"
	other.Job, other.Fence, other.Run = "b", 99, "r3"
	brief.Lease = -time.Second
	type step struct {
		what string
		by   consumer.OnceClaim
		want string
	}
	for name, steps := range map[string][]step{
		"done once":                  {{"claim", first, "mine"}, {"done", first, "true"}, {"claim", other, "done x"}, {"claim", later, "done x"}},
		"taken":                      {{"claim", first, "mine"}, {"claim", other, "taken"}, {"claim", first, "mine"}, {"done", other, "false"}},
		"given back":                 {{"claim", first, "mine"}, {"release", other, ""}, {"claim", other, "taken"}, {"release", first, ""}, {"claim", other, "mine"}},
		"a later run of the job":     {{"claim", first, "mine"}, {"claim", later, "mine"}, {"claim", first, "taken"}, {"done", first, "false"}, {"done", later, "true"}},
		"a claim that has run out":   {{"claim", brief, "mine"}, {"claim", other, "mine"}, {"done", first, "false"}},
		"done without a claim":       {{"done", first, "true"}, {"release", first, ""}, {"claim", other, "done x"}},
		"done after it has run out":  {{"claim", brief, "mine"}, {"done", first, "true"}, {"claim", other, "done x"}},
		"done, and long enough past": {{"done past", first, "true"}, {"claim", other, "mine"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store := &Once{open(t).DB}
			for i, s := range steps {
				var got string
				var err error
				switch s.what {
				case "claim":
					var state consumer.OnceState
					state, err = store.Claim(t.Context(), s.by)
					switch {
					case state.Done:
						got = "done " + string(state.Result)
					case state.Taken:
						got = "taken"
					default:
						got = "mine"
					}
				case "release":
					err = store.Release(t.Context(), s.by)
				default:
					var ok bool
					ok, err = store.Done(t.Context(), s.by, []byte("x"), map[string]time.Duration{"done": time.Hour, "done past": -time.Second}[s.what])
					got = fmt.Sprint(ok)
				}
				if err != nil || got != s.want {
					t.Fatalf("step %d: %s, %v, want %s", i+1, got, err, s.want)
				}
			}
		})
	}
}

// TestBooks runs all of it in a worker.
func TestBooks(t *testing.T) {
	t.Parallel()
	b := open(t)
	orders, err := stream.New(redistest.Client(t), redistest.Name(t), stream.Config{})
	if err != nil {
		t.Fatal(err)
	}
	w, err := consumer.New("billing", consumer.Config{KeepStatus: consumer.KeepAll}, orders)
	if err != nil {
		t.Fatal(err)
	}
	w.Use(consumer.Once(&Once{b.DB}, consumer.OnceConfig{Key: func(d *consumer.Delivery) string { return d.Header["key"] }}))
	b.Register(w)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	publish := func(job stream.Job, key string) string {
		t.Helper()
		job.Header = map[string]string{"key": key}
		r, err := orders.Publish(t.Context(), job)
		if err != nil {
			t.Fatal(err)
		}
		return r.ID
	}
	ids := []string{publish(Pay.Job(Payment{1, 250}), "pay-7"), publish(Pay.Job(Payment{1, 250}), "pay-7"), publish(Pay.Job(Payment{1, 100}), "")}
	for _, id := range ids {
		if info, err := orders.Wait(t.Context(), id); err != nil || info.State != stream.Completed {
			t.Errorf("%+v, %v", info, err)
		}
	}
	report := publish(BuildReport.Job(Report{"May"}), "")
	if info, err := orders.Wait(t.Context(), report); err != nil || info.State != stream.Completed {
		t.Errorf("%+v, %v", info, err)
	}
	if got := b.value(t, `SELECT body FROM reports`); got != "May: 3.50" {
		t.Errorf("the report is %q", got)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
