// Package billing has handlers that may run twice and do their work once, with an SQL database behind them. The best
// practices show parts of it.
package billing

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/penstock-go/penstock/consumer"
	"github.com/penstock-go/penstock/stream"
)

// Payment is to be booked.
type Payment struct {
	Account int64 `json:"account"`
	Cents   int64 `json:"cents"`
}

// Report is to be written for a month.
type Report struct {
	Month string `json:"month"`
}

// The types of jobs.
var (
	Pay         = stream.Type[Payment]{Name: "payment.book"}
	BuildReport = stream.Type[Report]{Name: "report.build"}
)

// Schema of what the handlers use.
const Schema = `
	CREATE TABLE accounts (id INTEGER PRIMARY KEY, cents INTEGER NOT NULL);
	CREATE TABLE booked (job TEXT PRIMARY KEY);
	CREATE TABLE reports (job TEXT PRIMARY KEY, body TEXT NOT NULL, fence INTEGER NOT NULL);
	CREATE TABLE once (key TEXT PRIMARY KEY, job TEXT NOT NULL, fence INTEGER NOT NULL, run TEXT NOT NULL, done BOOLEAN NOT NULL, result BLOB, until INTEGER NOT NULL);
`

// Books has the handlers.
type Books struct{ DB *sql.DB }

// Register gives the worker the handlers.
func (b *Books) Register(w *consumer.Worker) {
	consumer.Handle(w, Pay, b.Pay)
	consumer.Handle(w, BuildReport, b.BuildReport)
}

// Pay books a payment once, however often its job runs: the mark that it is booked is part of the same transaction.
func (b *Books) Pay(ctx context.Context, job *consumer.Job[Payment]) error {
	tx, err := b.DB.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // does nothing once it is committed
	marked, err := tx.ExecContext(ctx, `INSERT INTO booked (job) VALUES (?) ON CONFLICT DO NOTHING`, job.ID)
	if err != nil {
		return err
	}
	if n, err := marked.RowsAffected(); err != nil || n == 0 {
		return err // nil: an earlier run of this job has booked it
	}
	if _, err := tx.ExecContext(ctx, `UPDATE accounts SET cents = cents + ? WHERE id = ?`, job.Data.Cents, job.Data.Account); err != nil {
		return err
	}
	return tx.Commit()
}

// errLate: a later run of the job has written.
var errLate = errors.New("a later run of this job has written already")

// BuildReport takes long, and may have lost its lease by the time it writes: then another worker runs the job, and what that one
// writes must stay.
func (b *Books) BuildReport(ctx context.Context, job *consumer.Job[Report]) error {
	body, err := b.render(ctx, job.Data.Month)
	if err != nil {
		return err
	}
	written, err := b.DB.ExecContext(ctx, `
		INSERT INTO reports (job, body, fence) VALUES (?, ?, ?)
		ON CONFLICT (job) DO UPDATE SET body = excluded.body, fence = excluded.fence
		WHERE reports.fence <= excluded.fence`, job.ID, body, job.Fence)
	if err != nil {
		return err
	}
	if n, err := written.RowsAffected(); err != nil || n == 0 {
		return errors.Join(errLate, err)
	}
	return nil
}

// render stands for the work.
func (b *Books) render(ctx context.Context, month string) (string, error) {
	var cents int64
	err := b.DB.QueryRowContext(ctx, `SELECT coalesce(sum(cents), 0) FROM accounts`).Scan(&cents)
	return fmt.Sprintf("%s: %d.%02d", month, cents/100, cents%100), err
}
