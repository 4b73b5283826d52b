// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"log/slog"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/xdptcp/xdptcp/bpf"
	"github.com/xdptcp/xdptcp/userspace"
	"github.com/xdptcp/xdptcp/userspace/afxdp"
)

// NewCollector makes a collector of one Source. It does not log; a scrape that could not read XDP's
// counters shows as xdptcp_up 0.
func NewCollector(src Source) prometheus.Collector { return newCollector(src, nil) }

// Register adds the metrics of one Source to a registry.
func Register(reg prometheus.Registerer, src Source) error { return reg.Register(NewCollector(src)) }

type collector struct {
	src   Source
	log   *slog.Logger // nil: silent
	descs [familyCount]*prometheus.Desc
}

func newCollector(src Source, log *slog.Logger) *collector {
	c := &collector{src: src, log: log}
	labels := prometheus.Labels{"interface": src.About().Interface}
	for i, f := range families {
		c.descs[i] = prometheus.NewDesc("xdptcp_"+f.name, f.help, f.labels, labels)
	}
	return c
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	s := scrape{c, ch}
	engine := c.src.Engine()
	reasons, err := c.src.Reasons()
	s.about(c.src.About())
	// Counters that could not be read are left out: a zero would look like a restart.
	if err != nil {
		s.gauge(up, 0)
		if c.log != nil {
			c.log.Error("metrics: XDP's counters could not be read", "err", err)
		}
	} else {
		s.gauge(up, 1)
		s.packets(&reasons)
	}
	s.keys(c.src.Keys())
	s.engine(&engine)
	if l, ok := c.src.Lists(); ok {
		s.gauge(listEntries, float64(l.Allowed), "allow")
		s.gauge(listEntries, float64(l.Denied), "deny")
		s.counter(listFailures, l.Failures)
	}
	for queue, st := range c.src.Sockets() {
		s.socket(strconv.Itoa(queue), &st)
	}
}

// A scrape is one Collect under way.
type scrape struct {
	c  *collector
	ch chan<- prometheus.Metric
}

func (s scrape) counter(f family, v uint64, labels ...string) {
	s.ch <- prometheus.MustNewConstMetric(s.c.descs[f], prometheus.CounterValue, float64(v), labels...)
}

func (s scrape) gauge(f family, v float64, labels ...string) {
	s.ch <- prometheus.MustNewConstMetric(s.c.descs[f], prometheus.GaugeValue, v, labels...)
}

func (s scrape) about(a About) {
	s.gauge(info, 1, a.Mode, strconv.FormatBool(a.ZeroCopy), a.Version)
	s.gauge(queues, float64(a.Queues))
	s.gauge(flowCapacity, float64(a.FlowCapacity))
	s.gauge(leaseHeld, number(a.Lease))
	s.gauge(shieldUp, number(a.ShieldUp))
	for service, armed := range a.Armed {
		s.gauge(serviceArmed, number(armed), service)
	}
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// packets exports XDP's counters, and what follows from them about handshakes.
func (s scrape) packets(n *[bpf.ReasonCount]uint64) {
	for r, packetsSeen := range n {
		verdict, reason := bpf.ReasonLabels(bpf.Reason(r))
		s.counter(packets, packetsSeen, verdict, reason)
		if refusesHandshake(bpf.Reason(r)) {
			s.counter(handshakesRefused, packetsSeen, "xdp", reason)
		}
	}
	s.counter(synAcks, n[bpf.TxSynAck]+n[bpf.RedirectSynAck], "xdp")
	s.counter(handshakesCompleted, n[bpf.RedirectOpened]+n[bpf.PassHandedOver])
}

func (s scrape) keys(k Keys) {
	s.gauge(keyGeneration, float64(k.Generation))
	s.gauge(keysAccepted, float64(k.Accepted))
	s.gauge(keyAge, k.Age.Seconds())
	s.counter(keyFileLoads, k.Loads)
	s.counter(keyFailures, k.Failures)
}

// refusesHandshake says whether packets with this verdict were, or may have been, a SYN or a final
// ACK. Every drop may, but two: a RST, FIN or SYN/ACK of no flow opens nothing, and a queue without
// socket loses what is open already. So does a RST, and what the kernel would not take over.
func refusesHandshake(r bpf.Reason) bool {
	verdict, _ := bpf.ReasonLabels(r)
	switch r {
	case bpf.TxReset, bpf.PassNoListener, bpf.PassNotAssigned:
		return true
	case bpf.DropNoFlow, bpf.DropNoSocket:
		return false
	}
	return verdict == "drop"
}

func (s scrape) engine(st *userspace.Stats) {
	s.counter(synAcks, st.SynAcks, "engine")
	s.counter(handshakesRefused, st.RefusedBacklog, "engine", "backlog_full")
	s.counter(handshakesRefused, st.RefusedListener, "engine", "no_listener")
	s.handshakeDuration(st)

	s.gauge(connections, float64(st.Open), "open")
	s.gauge(connections, float64(st.Waiting), "waiting")
	s.counter(connectionsOpened, st.Opened)
	s.counter(connectionsClosed, st.ClosedClean, "clean")
	s.counter(connectionsClosed, st.ClosedReset, "reset")
	s.counter(connectionsClosed, st.ClosedTimeout, "timeout")
	s.counter(connectionsClosed, st.ClosedAborted, "aborted")
	s.counter(flowsSwept, st.Swept)

	s.counter(segments, st.SegmentsIn, "in")
	s.counter(segments, st.SegmentsOut, "out")
	s.counter(payloadBytes, st.BytesIn, "in")
	s.counter(payloadBytes, st.BytesOut, "out")
	s.counter(pureAcks, st.PureAcksOut)
	s.counter(retransmits, st.Retransmits)
	s.counter(resets, st.ResetsOut)
	s.counter(noConnection, st.NoConnection)
	s.counter(leftAlone, st.LeftAlone)
	s.counter(icmpErrors, st.ICMPUnreachable, "unreachable")
	s.counter(icmpErrors, st.ICMPTooBig, "too_big")
	s.counter(icmpErrors, st.ICMPTimeExceeded, "time_exceeded")
	s.counter(icmpErrors, st.ICMPParameterProblem, "parameter_problem")
	s.counter(icmpRefused, st.ICMPBadChecksum, "checksum")
	s.counter(icmpRefused, st.ICMPNoConnection, "no_connection")
	s.counter(icmpRefused, st.ICMPBadSequence, "sequence")
	s.counter(icmpRefused, st.ICMPBadMTU, "mtu")
	s.counter(strays, st.Strays-st.StraysLost, "handed_over")
	s.counter(strays, st.StraysLost, "lost")
	s.gauge(bufferBytes, float64(st.BufferBytes))
	s.counter(bufferRefusals, st.MemoryRefused)
	s.counter(bufferFull, st.SendBufferFull, "send")
	s.counter(bufferFull, st.ReceiveBufferFull, "receive")
	s.counter(bufferFull, st.OutOfOrderRefused, "out_of_order")
	s.counter(badFrames, st.BadFrames, "malformed")
	s.counter(badFrames, st.BadChecksums, "checksum")
	s.counter(transmitStalls, st.TxNoChunk)
	s.counter(transmitErrors, st.TxErrors)
}

// tick is the unit of the engine's handshake durations.
const tick = time.Duration(1 << bpf.TickShift)

func (s scrape) handshakeDuration(st *userspace.Stats) {
	buckets := make(map[float64]uint64, userspace.RTTBuckets-1)
	var sum uint64
	for i, n := range st.HandshakeRTT {
		sum += n
		if i < userspace.RTTBuckets-1 { // the last one is +Inf, which the count stands for
			buckets[(8 * tick << i).Seconds()] = sum
		}
	}
	total := float64(st.HandshakeRTTTicks) * tick.Seconds()
	s.ch <- prometheus.MustNewConstHistogram(s.c.descs[handshakeDuration], sum, total, buckets)
}

func (s scrape) socket(queue string, st *afxdp.Stats) {
	s.counter(queueFrames, st.RxFrames, queue, "in")
	s.counter(queueFrames, st.TxFrames, queue, "out")
	s.counter(queueBytes, st.RxBytes, queue, "in")
	s.counter(queueBytes, st.TxBytes, queue, "out")
	s.counter(queueDropped, st.RxRingFull, queue, "rx_ring_full")
	s.counter(queueDropped, st.RxDropped, queue, "other")
	s.counter(queueRingEmpty, st.FillRingEmpty, queue, "fill")
	s.counter(queueRingEmpty, st.TxRingEmpty, queue, "tx")
	s.counter(queueInvalid, st.RxInvalidDescs, queue, "fill")
	s.counter(queueInvalid, st.TxInvalidDescs, queue, "tx")
	s.counter(queueSyscalls, st.TxKicks, queue, "tx_kick")
	s.counter(queueSyscalls, st.TxBursts, queue, "tx_burst")
	s.counter(queueSyscalls, st.RxWakeups, queue, "rx_wakeup")
	s.counter(queueSyscalls, st.Polls, queue, "poll")
}
