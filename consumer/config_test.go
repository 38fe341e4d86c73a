package consumer_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
	"github.com/penstock-go/penstock/consumer"
	"github.com/penstock-go/penstock/stream"
	"github.com/penstock-go/penstock/stream/engine"
)

func TestRefusals(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t)
	s := newStream(t, rdb, stream.Config{})
	run(t, newWorker(t, quick(), s))
	redistest.Wait(t, "the first group", func() bool {
		d, err := s.Describe(t.Context())
		return err == nil && d.Kind == stream.KindQueue
	})
	second, err := consumer.New("search", quick(), s)
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Run(t.Context()); !errors.Is(err, stream.ErrKind) || !strings.Contains(err.Error(), group) {
		t.Errorf("a queue's second group: %v, want ErrKind naming the first", err)
	}
	foreign := newStream(t, rdb, stream.Config{})
	rdb.XAdd(t.Context(), &redis.XAddArgs{Stream: foreign.Name(), Values: []any{"a", "b"}})
	if err := newWorker(t, quick(), foreign).Run(t.Context()); !errors.Is(err, stream.ErrKind) {
		t.Errorf("a foreign stream: %v, want ErrKind", err)
	}
	wrong := newStream(t, rdb, stream.Config{})
	rdb.Set(t.Context(), wrong.Name(), "x", 0)
	if err := newWorker(t, quick(), wrong).Run(t.Context()); err == nil || !strings.Contains(err.Error(), wrong.Name()) {
		t.Errorf("a string key: %v, want an error that names it", err)
	}
	newer := newStream(t, rdb, stream.Config{})
	rdb.HSet(t.Context(), "{"+newer.Name()+"}:config", "kind", "queue", "format", engine.Format+1)
	if err := newWorker(t, quick(), newer).Run(t.Context()); !errors.Is(err, stream.ErrNewerFormat) {
		t.Errorf("a newer stream: %v, want ErrNewerFormat", err)
	}
}

func TestConfigFaultsAllAtOnce(t *testing.T) {
	t.Parallel()
	s := newStream(t, redistest.Client(t), stream.Config{})
	_, err := consumer.New("a:b", consumer.Config{MaxJobs: -1, Timeout: -5, MaxTries: -1, Backoff: consumer.Backoff{Factor: 0.5},
		Types: map[string]consumer.TypeConfig{"x": {MaxTries: -2}}}, s, s)
	for _, want := range []string{"a:b", "MaxJobs", "Timeout", "MaxTries", "Backoff.Factor", `Types["x"].MaxTries`, "twice"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not name %s", err, want)
		}
	}
	if !errors.Is(err, stream.ErrInvalid) {
		t.Error("the error is no ErrInvalid")
	}
}

func TestHandlersMustBeSetBeforeRun(t *testing.T) {
	t.Parallel()
	s := newStream(t, redistest.Client(t), stream.Config{})
	w := newWorker(t, quick(), s)
	h := func(context.Context, *consumer.Job[int]) error { return nil }
	consumer.Handle(w, ping, h)
	mustPanic(t, "a type taken", func() { consumer.Handle(w, ping, h) })
	mustPanic(t, "a batch of 0", func() {
		consumer.HandleBatch(w, stream.Type[int]{Name: "b"}, 0, func(context.Context, []*consumer.Job[int]) []error { return nil })
	})
	run(t, w)
	redistest.Wait(t, "the worker", func() bool { return w.Health().Ready })
	mustPanic(t, "a running worker", func() { consumer.Handle(w, stream.Type[int]{Name: "late"}, h) })
	if err := w.Run(t.Context()); err == nil {
		t.Error("a second Run did not fail")
	}
}

func mustPanic(t *testing.T, what string, f func()) {
	t.Helper()
	defer func() {
		if recover() == nil {
			t.Errorf("%s: no panic", what)
		}
	}()
	f()
}
