// SPDX-License-Identifier: Apache-2.0

package tcp

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/xdptcp/xdptcp/userspace/wire"
)

// A modelEnd is one of two connections that are joined by a wire, with the little that a model must know of it.
type modelEnd struct {
	name     string
	c        Conn
	cfg      *Config
	wire     []*wire.Segment // on their way to it
	wrote    int
	read     int
	deaf     bool // CloseRead: what comes is thrown away
	gaveUp   bool // Close or Abort was called
	reads    bool // found nothing to read, and waits for Readable
	writes   bool // was cut short, and waits for Writable
	lingers  bool // waits for Delivered
	accepted int  // segments that found it open
}

// A model is two ends, the wire, and a clock. On an honest wire segments are lost, doubled and reordered; on a hostile one their
// fields are changed too.
type model struct {
	ends    [2]modelEnd
	now     Time
	hostile bool
}

// modelByte is what both applications write: known by place, so that whoever reads knows what to expect.
func modelByte(at int) byte { return byte(at * 2654435761 >> 20) }

func newModel(t *rapid.T, hostile bool) *model {
	m := &model{now: Time(time.Second), hostile: hostile}
	hs := Handshake{
		ISS: Seq(rapid.Uint32().Draw(t, "ISS")), IRS: -Seq(rapid.Uint32Range(0, 40000).Draw(t, "IRS before 2^32")),
		MSS:  rapid.SampledFrom([]int{88, 536, 1460}).Draw(t, "MSS"),
		SACK: rapid.Bool().Draw(t, "SACK"), Timestamps: rapid.Bool().Draw(t, "timestamps"),
		SndWScale: rapid.SampledFrom([]uint8{0, 7}).Draw(t, "scale"), RcvWScale: 7,
		RcvWnd: 20000,
	}
	server, client := handshakes(hs)
	for i, hs := range []Handshake{client, server} {
		e := &m.ends[i]
		e.name = [2]string{"client", "server"}[i]
		e.cfg = DefaultConfig()
		e.cfg.RecvBuffer = rapid.SampledFrom([]int{20000, 40000}).Draw(t, e.name+"'s receive buffer")
		e.cfg.RecvBufferMax = rapid.SampledFrom([]int{0, 60000}).Draw(t, e.name+"'s largest")
		e.cfg.SendBuffer = rapid.SampledFrom([]int{4096, 20000}).Draw(t, e.name+"'s send buffer")
		e.cfg.SendBufferMax = rapid.SampledFrom([]int{0, 50000}).Draw(t, e.name+"'s largest")
		if hostile {
			e.cfg.Pool = NewPool(rapid.SampledFrom([]int{0, 6}).Draw(t, e.name+"'s pool"))
		} else {
			e.cfg.Retries, e.cfg.OrphanRetries = 100, 100 // however long nothing gets through
			e.cfg.TimeWait, e.cfg.FinWait2 = 1000*time.Hour, 1000*time.Hour
		}
		e.c.Open(e.cfg, hs, m.now)
	}
	cl := &m.ends[0].c // it has the window from the SYN/ACK, and its final ACK is on its way
	cl.sndWnd, cl.maxSndWnd = server.RcvWnd, server.RcvWnd
	cl.set(flagAckNow)
	m.output(t)
	return m
}

func (m *model) other(e *modelEnd) *modelEnd {
	if e == &m.ends[0] {
		return &m.ends[1]
	}
	return &m.ends[0]
}

// output moves all that both ends have to send to the wire.
func (m *model) output(t *rapid.T) {
	for i := range m.ends {
		e := &m.ends[i]
		var s wire.Segment
		for n := 0; e.c.Output(&s, m.now); n++ {
			if n > 2000 {
				t.Fatalf("%s: Output does not end", e.name)
			}
			if s.PayloadLen > int(e.c.mss) {
				t.Fatalf("%s: %d bytes, MSS %d", e.name, s.PayloadLen, e.c.mss)
			}
			m.transmit(e, &s)
		}
	}
}

func (m *model) transmit(from *modelEnd, s *wire.Segment) {
	out := *s
	out.Payload = make([]byte, s.PayloadLen)
	from.c.CopyPayload(out.Payload, s)
	to := m.other(from)
	to.wire = append(to.wire, &out)
	if len(to.wire) > 300 {
		to.wire = to.wire[1:] // a queue overflows
	}
}

// event notes whom an Input or Tick has woken.
func (e *modelEnd) event(ev Event) {
	if ev&(Readable|Closed) != 0 {
		e.reads = false
	}
	if ev&(Writable|Closed) != 0 {
		e.writes = false
	}
	if ev&(Delivered|Closed) != 0 {
		e.lingers = false
	}
}

// arrive is the arrival of a segment. One that finds no connection is answered with a RST, as the engine does.
func (m *model) arrive(e *modelEnd, s *wire.Segment) {
	if e.c.State() == StateClosed {
		var rst wire.Segment
		if Reset(s, &rst) {
			m.other(e).wire = append(m.other(e).wire, &rst)
		}
		return
	}
	e.accepted++
	in := *s
	e.event(e.c.Input(&in, m.now))
}

// next is when the next timer runs out.
func (m *model) next() Time { return min(m.ends[0].c.Deadline(), m.ends[1].c.Deadline()) }

// tick lets it be at.
func (m *model) tick(at Time) {
	m.now = max(m.now, at)
	for i := range m.ends {
		if e := &m.ends[i]; e.c.Deadline() <= m.now {
			e.event(e.c.Tick(m.now))
		}
	}
}

// write is the application's, of n bytes.
func (e *modelEnd) write(n int) {
	b := make([]byte, n)
	for i := range b {
		b[i] = modelByte(e.wrote + i)
	}
	got := e.c.Write(b)
	e.wrote += got
	e.writes = got < n && !e.c.has(flagCloseWrite) && (e.c.State() == StateEstablished || e.c.State() == StateCloseWait)
}

func (m *model) readAll(t *rapid.T, e *modelEnd, n int) {
	b := make([]byte, n)
	got := e.c.Read(b)
	for i, x := range b[:got] {
		if x != modelByte(e.read+i) {
			t.Fatalf("%s: byte %d is not what was written there", e.name, e.read+i)
		}
	}
	e.read += got
	if got == 0 && n > 0 && !e.c.ReadClosed() && e.c.State() != StateClosed {
		e.reads = true
	}
}

// check is what must be true between any two steps.
func (m *model) check(t *rapid.T) {
	for i := range m.ends {
		e := &m.ends[i]
		c := &e.c
		if err := c.invariants(); err != nil {
			t.Fatalf("%s: %v", e.name, err)
		}
		if !m.hostile && e.read+c.Buffered() > m.other(e).wrote {
			t.Fatalf("%s has %d bytes of %d written", e.name, e.read+c.Buffered(), m.other(e).wrote)
		}
		if e.reads && c.readable() {
			t.Fatalf("%s: a reader sleeps beside %d bytes", e.name, c.Buffered())
		}
		if e.writes && !c.has(flagPoolWait) && c.SendSpace() >= c.sendBound()/4 && c.outstanding() == 0 && c.Unsent() == 0 {
			t.Fatalf("%s: a writer sleeps beside an empty buffer", e.name)
		}
		if e.lingers && (c.has(flagFinAcked) || c.State() == StateClosed) {
			t.Fatalf("%s: Close waits, and all is acknowledged", e.name)
		}
		if c.State() != StateClosed && c.Deadline() <= m.now {
			t.Fatalf("%s: a timer that ran out runs on", e.name)
		}
		if c.State() != StateClosed && c.Unsent() > 0 && c.outstanding() == 0 && c.Deadline() == Never {
			t.Fatalf("%s: %d bytes wait for nothing: %+v", e.name, c.Unsent(), c.Info())
		}
	}
}

// mutate changes a field of a segment. Its bytes stay those of their place, as a checksum would have it: or the stream would be
// another one, and rightly so.
func (m *model) mutate(t *rapid.T, s *wire.Segment) *wire.Segment {
	out := *s
	by := uint32(rapid.SampledFrom([]int{1, -1, 2, 100, -100, 1460, -1460, 70000, -70000, 1 << 30, -1 << 31}).Draw(t, "by"))
	switch rapid.IntRange(0, 6).Draw(t, "field") {
	case 0:
		if s.PayloadLen == 0 {
			out.Seq += by
		}
	case 1:
		out.Ack += by
	case 2:
		out.Flags ^= wire.Flags(1) << rapid.IntRange(0, 7).Draw(t, "flag")
	case 3:
		out.Window = uint16(by)
	case 4:
		out.TSVal += by
	case 5:
		out.Timestamps = !out.Timestamps
	case 6:
		out.SACK[0] = wire.SACKBlock{Left: out.Ack + by, Right: out.Ack + 2*by}
		out.NSACK = 1
	}
	return &out
}

// actions are what can happen, to either end.
func (m *model) actions() map[string]func(*rapid.T) {
	act := func(f func(*rapid.T, *modelEnd)) func(*rapid.T) {
		return func(t *rapid.T) {
			f(t, &m.ends[rapid.IntRange(0, 1).Draw(t, "end")])
			m.output(t)
		}
	}
	// pick chooses a segment that is on its way; take removes it.
	pick := func(t *rapid.T, e *modelEnd, take bool) *wire.Segment {
		if len(e.wire) == 0 {
			t.Skip("nothing is on its way")
		}
		i := rapid.IntRange(0, len(e.wire)-1).Draw(t, "segment")
		s := e.wire[i]
		if take {
			e.wire = append(e.wire[:i:i], e.wire[i+1:]...)
		}
		return s
	}
	deliver := act(func(t *rapid.T, e *modelEnd) {
		if len(e.wire) == 0 {
			t.Skip("nothing is on its way")
		}
		s := e.wire[0]
		e.wire = e.wire[1:]
		m.arrive(e, s)
	})
	all := map[string]func(*rapid.T){
		"": m.check,
		"write": act(func(t *rapid.T, e *modelEnd) {
			e.write(rapid.SampledFrom([]int{1, 100, 1460, 5000, 30000}).Draw(t, "bytes"))
		}),
		"read": act(func(t *rapid.T, e *modelEnd) {
			m.readAll(t, e, rapid.SampledFrom([]int{1, 1000, 100000}).Draw(t, "bytes"))
		}),
		"deliver":       deliver,
		"deliver again": deliver, // twice as likely as the rest
		"deliver out of turn": act(func(t *rapid.T, e *modelEnd) {
			m.arrive(e, pick(t, e, true))
		}),
		"deliver a batch": act(func(t *rapid.T, e *modelEnd) {
			batch := e.wire
			e.wire = nil
			for _, s := range batch {
				m.arrive(e, s)
			}
		}),
		"double":   act(func(t *rapid.T, e *modelEnd) { m.arrive(e, pick(t, e, false)) }),
		"lose":     act(func(t *rapid.T, e *modelEnd) { pick(t, e, true) }),
		"lose all": act(func(t *rapid.T, e *modelEnd) { e.wire = nil }),
		"wait for a timer": func(t *rapid.T) {
			next := m.next()
			if next > m.now.Add(time.Hour) {
				t.Skip("nothing runs but TIME-WAIT")
			}
			m.tick(next)
			m.output(t)
		},
		"wait": func(t *rapid.T) {
			m.tick(m.now.Add(time.Duration(rapid.IntRange(1, 300).Draw(t, "ms")) * time.Millisecond))
			m.output(t)
		},
		"close for writing": act(func(t *rapid.T, e *modelEnd) { e.c.CloseWrite(); e.writes = false }),
		"shut the window by not reading": act(func(t *rapid.T, e *modelEnd) {
			m.other(e).write(100000)
		}),
		"say that the path is narrower": act(func(t *rapid.T, e *modelEnd) {
			if e.c.Outstanding(uint32(e.c.sndUna)) {
				e.c.LowerMSS(rapid.IntRange(40, 1500).Draw(t, "MSS"), m.now)
			}
		}),
		"say that the peer is unreachable": act(func(t *rapid.T, e *modelEnd) { e.c.SoftError(wire.ICMPUnreachable) }),
		"set options": act(func(t *rapid.T, e *modelEnd) {
			e.c.SetNoDelay(rapid.Bool().Draw(t, "no delay"))
			k := KeepAlive{Enable: rapid.Bool().Draw(t, "keep alive"), Idle: time.Minute, Interval: 10 * time.Second, Count: 3}
			if !m.hostile {
				k.Count = 1000
			}
			e.c.SetKeepAlive(k, m.now)
		}),
		"close for reading": act(func(t *rapid.T, e *modelEnd) {
			if rapid.IntRange(0, 9).Draw(t, "really, if 0") == 0 {
				e.c.CloseRead()
				e.deaf, e.reads = true, false
			}
		}),
		"close": act(func(t *rapid.T, e *modelEnd) {
			if rapid.IntRange(0, 9).Draw(t, "really, if 0") == 0 {
				e.c.Close(m.now)
				e.gaveUp, e.deaf, e.reads, e.writes = true, true, false, false
				e.lingers = e.c.Linger()
			}
		}),
		"abort": act(func(t *rapid.T, e *modelEnd) {
			if rapid.IntRange(0, 19).Draw(t, "really, if 0") == 0 {
				e.c.Abort()
				e.gaveUp, e.deaf, e.reads, e.writes, e.lingers = true, true, false, false, false
			}
		}),
	}
	if m.hostile {
		all["change a field"] = act(func(t *rapid.T, e *modelEnd) { m.arrive(e, m.mutate(t, pick(t, e, false))) })
		all["set a user time-out"] = act(func(t *rapid.T, e *modelEnd) {
			e.c.SetUserTimeout(time.Duration(rapid.IntRange(0, 100).Draw(t, "s")) * time.Second)
			m.tick(m.now) // it may be over already
		})
	}
	return all
}

// drain is how everything ends, once the wire behaves: both applications close, and read what comes.
func (m *model) drain(t *rapid.T) {
	over := func(e *modelEnd) bool { return e.c.State() == StateClosed || e.c.State() == StateTimeWait }
	for step := 0; ; step++ {
		idle := true
		for i := range m.ends {
			e := &m.ends[i]
			m.readAll(t, e, 100000)
			e.c.CloseWrite()
			e.writes = false
			if step > 1000 {
				// It may have been talked into anything, or never heard of a reset; but who closes it must get rid of it.
				e.c.Close(m.now)
				e.deaf, e.reads = true, false
			}
		}
		m.output(t)
		for i := range m.ends {
			e := &m.ends[i]
			batch := e.wire
			e.wire = nil
			for _, s := range batch {
				idle = false
				m.arrive(e, s)
			}
		}
		m.output(t)
		m.check(t)
		if over(&m.ends[0]) && over(&m.ends[1]) && idle {
			return
		}
		if idle {
			next := m.next()
			if next == Never {
				if step > 1000 || !m.hostile && !m.ends[0].gaveUp && !m.ends[1].gaveUp {
					t.Fatalf("stuck: %s", m)
				}
				step = 1000
				continue
			}
			m.tick(next)
		}
		if step > 20000 {
			t.Fatalf("it does not end: %s", m)
		}
	}
}

func (m *model) String() string {
	return fmt.Sprintf("client %+v, server %+v", m.ends[0].c.Info(), m.ends[1].c.Info())
}

// check tries more than rapid does unless it is told. For a long run: go test -run TestNothing -rapid.checks=5000 -rapid.steps=200.
func check(t *testing.T, f func(*rapid.T)) {
	for range 10 {
		rapid.Check(t, f)
	}
}

func TestNothingThatHappensOnAnHonestWireLosesAByteOrGetsStuck(t *testing.T) {
	check(t, func(t *rapid.T) {
		m := newModel(t, false)
		t.Repeat(m.actions())
		m.drain(t)
		for i := range m.ends {
			e, from := &m.ends[i], m.other(&m.ends[i])
			if e.gaveUp || from.gaveUp {
				continue // a reset may have cut off either direction
			}
			if err := e.c.Err(); err != nil {
				t.Fatalf("%s: %v: %s", e.name, err, m)
			}
			if !e.deaf && e.read != from.wrote {
				t.Fatalf("%s read %d bytes of %d: %s", e.name, e.read, from.wrote, m)
			}
		}
		m.givenBack(t)
	})
}

func TestNothingThatHappensOnAHostileWireBreaksAConnectionOrGetsItStuck(t *testing.T) {
	check(t, func(t *rapid.T) {
		m := newModel(t, true)
		t.Repeat(m.actions())
		m.drain(t)
		m.givenBack(t)
	})
}

func (m *model) givenBack(t *rapid.T) {
	for i := range m.ends {
		e := &m.ends[i]
		if e.c.Buffered() > 0 {
			e.c.CloseRead()
		}
		if n := e.cfg.Pool.InUse(); n != 0 {
			t.Fatalf("%s: %d chunks were not given back", e.name, n)
		}
	}
}
