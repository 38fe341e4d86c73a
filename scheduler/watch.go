package scheduler

import (
	"context"
	"sync"
	"time"

	"github.com/penstock-go/penstock/stream/engine"
)

const (
	fileEvery    = 2 * time.Second  // between two looks whether the file has changed
	keptEvery    = 15 * time.Second // between two readings of the schedules kept in Redis: how long a lost hint can cost
	noneEvery    = time.Minute      // the same while there is none
	watchSilence = 5 * time.Minute  // of the channel, before it is pinged
	watchPause   = 5 * time.Second  // after an error
)

// watch follows the sources of schedules until ctx ends.
func (d *driver) watch(ctx context.Context) {
	hints := make(chan struct{}, 1)
	hint := func() {
		select {
		case hints <- struct{}{}:
		default:
		}
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	l := engine.Listener{
		Client: d.rdb, Channel: engine.CronChannel, Pause: watchPause, Silence: watchSilence,
		Heard: func(text string) {
			if text == engine.CronReleased {
				d.leader.hint()
				return
			}
			hint()
		},
		Up: func(up bool) {
			if up {
				hint()
			}
		},
	}
	wg.Go(func() { l.Run(ctx) })

	var file <-chan time.Time
	if d.sources.path != "" {
		ticker := time.NewTicker(fileEvery)
		defer ticker.Stop()
		file = ticker.C
	}
	next := time.NewTimer(0)
	defer next.Stop()
	fails := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-file:
			if d.sources.reloadFile() {
				d.changed()
			}
			continue
		case <-hints:
		case <-next.C:
		}
		err := d.readKept(ctx)
		if err == nil && d.leader.leads() {
			err = d.askTime(ctx)
		}
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && !fails:
			d.logger.Warn("the schedules kept in Redis cannot be read, trying again", "err", err)
		case err == nil && fails:
			d.logger.Info("the schedules kept in Redis are read again")
		}
		fails = err != nil
		switch {
		case fails:
			next.Reset(watchPause)
		case d.sources.hasKept():
			next.Reset(keptEvery)
		default:
			next.Reset(noneEvery)
		}
	}
}

// readKept reads the schedules kept in Redis.
func (d *driver) readKept(ctx context.Context) error {
	ctx, cancel := limit(ctx)
	defer cancel()
	d.reading.Lock()
	defer d.reading.Unlock()
	texts, err := d.rdb.HGetAll(ctx, engine.SchedulesKey).Result()
	if err != nil {
		return unavailable("read schedules", err)
	}
	if d.sources.setKept(texts) {
		d.changed()
	}
	return nil
}
