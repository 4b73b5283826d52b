// SPDX-License-Identifier: Apache-2.0

package flood

import (
	"context"
	"errors"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// legit lets clients connect while a flood goes on. Nothing is pinned: the generator (a thread of this
// process), the clients (another) and the server (a process) share the CPUs.
func (o *Options) legit(ctx context.Context, s Server, rate Rate) (_ LegitRound, err error) {
	r, err := o.newRig(s)
	if err != nil {
		return LegitRound{}, err
	}
	defer func() { err = errors.Join(err, r.close()) }()

	c := clients{server: r.address(o.IPv6)}
	if err := r.lab.Client.Do(func() error { return prepareClients(r.lab.Client, o.IPv6) }); err != nil {
		return LegitRound{}, err
	}
	// The flood goes on until the last client is done.
	flooding, stop := context.WithTimeout(ctx, o.Duration+timeOut+time.Second)
	defer stop()
	tid, ended := make(chan int, 1), make(chan error, 1)
	go func() {
		ended <- r.gen.inside(func(s sender) error {
			tid <- unix.Gettid()
			return s.flood(flooding, rate)
		})
	}()
	var generator int
	select {
	case generator = <-tid:
	case err := <-ended:
		return LegitRound{}, err
	}
	watch := meter{gen: r.gen, clocks: []cpuClock{
		thread(generator), process(r.server.Process.Pid), process(unix.Getpid()), idle,
	}}
	if err := watch.start(); err != nil {
		return LegitRound{}, err
	}
	finished := make(chan error, 1)
	go func() {
		finished <- r.lab.Client.Do(func() error { return c.run(ctx, o.Duration) })
	}()
	select {
	case <-time.After(o.Duration):
	case <-ctx.Done():
	}
	m, err := watch.stop()
	err = errors.Join(err, <-finished)
	stop()
	if err := errors.Join(err, <-ended, ctx.Err()); err != nil {
		return LegitRound{}, err
	}

	round := LegitRound{
		Seconds: m.took.Seconds(), Flood: m.ledger.fate(),
		SentPerSecond: float64(m.ledger.sent) / m.took.Seconds(), AnsweredPerSecond: float64(m.ledger.answered()) / m.took.Seconds(),
		Connections: len(c.result.served), PerSecond: float64(len(c.result.served)) / o.Duration.Seconds(),
		Late: c.result.late, Failed: c.result.failed, Stuck: c.result.stuck,
		CPU: CPUShares{Generator: m.share(0), Server: m.share(1), Clients: m.share(2) - m.share(0), Idle: m.share(3)},
	}
	if c.result.failure != nil {
		round.Failure = c.result.failure.Error()
	}
	if took := slices.Sorted(slices.Values(c.result.served)); len(took) > 0 {
		round.P50 = took[len(took)/2].Seconds() * 1000
		round.P99 = took[len(took)*99/100].Seconds() * 1000
	}
	return round, nil
}

// flood floods at a rate until ctx ends.
func (g sender) flood(ctx context.Context, rate Rate) error {
	const longest = MaxDuration + time.Minute // ctx ends before
	switch rate {
	case 0:
		<-ctx.Done()
		return nil
	case Max:
		_, err := g.blast(ctx, longest)
		return err
	}
	return g.pace(ctx, rate, longest)
}

// A meter reads what grows, at the start and at the end of a measurement.
type meter struct {
	gen    *generator
	clocks []cpuClock

	began  time.Time
	before ledger
	cpu    []time.Duration
}

// measured is what a meter found.
type measured struct {
	took   time.Duration
	ledger ledger
	cpu    []time.Duration
}

func (m *meter) read() (l ledger, cpu []time.Duration, err error) {
	for _, c := range m.clocks {
		t, err := c()
		if err != nil {
			return l, nil, err
		}
		cpu = append(cpu, t)
	}
	l, err = m.gen.ledger()
	return l, cpu, err
}

func (m *meter) start() (err error) {
	m.before, m.cpu, err = m.read()
	m.began = time.Now()
	return err
}

func (m *meter) stop() (measured, error) {
	took := time.Since(m.began)
	l, cpu, err := m.read()
	for i := range cpu {
		cpu[i] -= m.cpu[i]
	}
	return measured{took: took, ledger: l.minus(m.before), cpu: cpu}, err
}

// share is the part of one CPU that the i-th clock had.
func (m measured) share(i int) float64 { return m.cpu[i].Seconds() / m.took.Seconds() }
