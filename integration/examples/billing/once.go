package billing

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/penstock-go/penstock/consumer"
)

// Once is a consumer.OnceStore in the table once. Times are of one clock, this host's: where workers run on several, take the
// database's.
type Once struct{ DB *sql.DB }

// Claim is one statement: it changes a row that is free, that is this run's, or whose claim gives way, and no other.
func (o *Once) Claim(ctx context.Context, c consumer.OnceClaim) (consumer.OnceState, error) {
	now := time.Now()
	res, err := o.DB.ExecContext(ctx, `
		INSERT INTO once (key, job, fence, run, done, until) VALUES (?1, ?2, ?3, ?4, FALSE, ?5)
		ON CONFLICT (key) DO UPDATE SET job = ?2, fence = ?3, run = ?4, done = FALSE, result = NULL, until = ?5
		WHERE until <= ?6 OR NOT done AND (run = ?4 OR job = ?2 AND fence < ?3)`,
		c.Key, c.Job, c.Fence, c.Run, now.Add(c.Lease).UnixMilli(), now.UnixMilli())
	if err != nil {
		return consumer.OnceState{}, err
	}
	if n, err := res.RowsAffected(); err != nil || n == 1 {
		return consumer.OnceState{}, err
	}
	var state consumer.OnceState
	var until int64
	err = o.DB.QueryRowContext(ctx, `SELECT done, result, until FROM once WHERE key = ?`, c.Key).Scan(&state.Done, &state.Result, &until)
	if errors.Is(err, sql.ErrNoRows) { // it was given back just now
		return consumer.OnceState{Taken: true}, nil
	}
	state.Taken, state.Wait = !state.Done, time.UnixMilli(until).Sub(now)
	return state, err
}

// Done marks what is this run's, or nobody's.
func (o *Once) Done(ctx context.Context, c consumer.OnceClaim, result []byte, keep time.Duration) (bool, error) {
	res, err := o.DB.ExecContext(ctx, `
		INSERT INTO once (key, job, fence, run, done, result, until) VALUES (?1, ?2, ?3, ?4, TRUE, ?5, ?6)
		ON CONFLICT (key) DO UPDATE SET done = TRUE, result = ?5, until = ?6
		WHERE run = ?4`,
		c.Key, c.Job, c.Fence, c.Run, result, time.Now().Add(keep).UnixMilli())
	if err != nil {
		return false, err
	}
	n, err := res.RowsAffected()
	return n == 1, err
}

// Release forgets what is this run's and not done.
func (o *Once) Release(ctx context.Context, c consumer.OnceClaim) error {
	_, err := o.DB.ExecContext(ctx, `DELETE FROM once WHERE key = ? AND run = ? AND NOT done`, c.Key, c.Run)
	return err
}
