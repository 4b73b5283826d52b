// SPDX-License-Identifier: Apache-2.0

package services

import (
	"math"
	"net"
	"net/http"
	"time"

	"github.com/xdptcp/xdptcp/bpf"
	"github.com/xdptcp/xdptcp/userspace"
	"github.com/xdptcp/xdptcp/userspace/tcp"
)

// A Report is the answer of /json. The names are stable; new ones may be added.
type Report struct {
	Time       time.Time   `json:"time"`
	Interface  string      `json:"interface"`  // that the XDP program is attached to; "" if unknown
	Mode       string      `json:"mode"`       // "native" or "generic"; "" if unknown
	Connection *Connection `json:"connection"` // that the request came on; null if it isn't xdptcp's
	Rates      *Rates      `json:"rates"`      // null if the service was given no Status
	Counters   *Totals     `json:"counters"`   // likewise
}

// A Connection is how the client's own connection came to be, and how it is.
type Connection struct {
	Remote        string    `json:"remote"`         // the client's address and port
	Local         string    `json:"local"`          // ours
	Queue         int       `json:"queue"`          // RX queue of the final ACK
	AnsweredBy    string    `json:"answered_by"`    // who sent the SYN/ACK: "xdp" or "engine"
	Opened        time.Time `json:"opened"`         // when the final ACK was seen
	ClientISN     uint32    `json:"client_isn"`     // initial sequence numbers
	ServerISN     uint32    `json:"server_isn"`     // ours is the cookie
	ClientNext    uint32    `json:"client_next"`    // RCV.NXT: the number of the client's next byte
	ServerNext    uint32    `json:"server_next"`    // the number of the next byte written to the client
	MSS           uint16    `json:"mss"`            // the client's, rounded down to what a cookie can say
	ClientWScale  *int      `json:"client_wscale"`  // shift of the client's window; null: not negotiated
	ServerWScale  *int      `json:"server_wscale"`  // shift of ours; null: likewise
	SACK          bool      `json:"sack"`           // selective acknowledgments
	ECN           bool      `json:"ecn"`            // explicit congestion notification
	Timestamps    bool      `json:"timestamps"`     // RFC 7323
	HandshakeMS   *float64  `json:"handshake_ms"`   // SYN/ACK to final ACK, in steps of 8.4; null without timestamps
	State         string    `json:"state"`          // by RFC 9293
	SegmentSize   int       `json:"segment_size"`   // payload of a full segment that we send
	RTTMS         *float64  `json:"rtt_ms"`         // smoothed; null if not measured yet
	Cwnd          int       `json:"cwnd"`           // congestion window, bytes
	SendWindow    int       `json:"send_window"`    // the client's, bytes
	ReceiveWindow int       `json:"receive_window"` // ours, bytes
	InFlight      int       `json:"in_flight"`      // sent and not acknowledged
	BytesIn       uint64    `json:"bytes_in"`       // from the client, in order
	BytesOut      uint64    `json:"bytes_out"`      // written to the client, before this answer
	SegmentsIn    uint64    `json:"segments_in"`
	SegmentsOut   uint64    `json:"segments_out"`
	Retransmits   uint64    `json:"retransmits"`   // segments
	PureAcksOut   uint64    `json:"pure_acks_out"` // segments that only acknowledge
}

// Rates are per second, one value a second, the oldest first; at most 60.
type Rates struct {
	SynAcks   []float64 `json:"synacks"`   // SYNs answered
	Completed []float64 `json:"completed"` // final ACKs with a valid cookie
	Dropped   []float64 `json:"dropped"`   // packets refused by XDP
	BytesIn   []float64 `json:"bytes_in"`  // payload
	BytesOut  []float64 `json:"bytes_out"`
	Open      []int     `json:"open"` // connections: not a rate
}

// Totals are counters since the program was loaded (packets) and since the daemon started (the rest).
type Totals struct {
	// Packets are XDP's, by verdict ("pass", "tx", "redirect", "drop") and reason ("bad_cookie").
	Packets map[string]map[string]uint64 `json:"packets"`
	// Stale says that packets could not be read just now, and are those of the last reading.
	Stale       bool   `json:"stale"`
	Open        int    `json:"open"`    // connections now
	Waiting     int    `json:"waiting"` // closed, and kept for old duplicates
	Opened      uint64 `json:"opened"`
	SegmentsIn  uint64 `json:"segments_in"`
	SegmentsOut uint64 `json:"segments_out"`
	BytesIn     uint64 `json:"bytes_in"` // payload
	BytesOut    uint64 `json:"bytes_out"`
	PureAcksOut uint64 `json:"pure_acks_out"` // segments that only acknowledge
	ResetsOut   uint64 `json:"resets_out"`
	Retransmits uint64 `json:"retransmits"` // segments sent again
}

// handshaker is a connection that knows how it came to be: *userspace.Conn.
type handshaker interface {
	Handshake() userspace.Handshake
	Info() tcp.Info
}

var _ handshaker = (*userspace.Conn)(nil)

// handshakerOf finds the connection below a request, through wrappers such as tls.Conn.
func handshakerOf(r *http.Request) handshaker {
	c, _ := r.Context().Value(connKey{}).(net.Conn)
	for c != nil {
		if h, ok := c.(handshaker); ok {
			return h
		}
		wrapper, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			return nil
		}
		c = wrapper.NetConn()
	}
	return nil
}

// plotSeconds is how many samples the page and its JSON show.
const plotSeconds = 60

func (s *httpService) report(r *http.Request) *Report {
	place := s.place()
	report := &Report{Time: time.Now().UTC(), Interface: place.Interface, Mode: place.Mode}
	if h := handshakerOf(r); h != nil {
		report.Connection = newConnection(h.Handshake(), h.Info())
	}
	if s.status != nil {
		report.Rates = newRates(s.status.Samples(plotSeconds))
		report.Counters = newTotals(s.status.Read())
	}
	return report
}

func newConnection(h userspace.Handshake, i tcp.Info) *Connection {
	c := &Connection{
		Remote: h.Remote.String(), Local: h.Local.String(), Queue: h.Queue,
		AnsweredBy: h.AnsweredBy, Opened: h.Opened.UTC(),
		ClientISN: h.ClientISN, ServerISN: h.ServerISN,
		ClientNext: h.ClientISN + 1 + uint32(i.BytesIn), // the SYN takes one number
		ServerNext: h.ServerISN + 1 + uint32(i.BytesOut),
		MSS:        h.MSS, SACK: h.SACK, ECN: h.ECN, Timestamps: h.Timestamps,
		State: i.State.String(), SegmentSize: i.MSS, Cwnd: i.Cwnd,
		SendWindow: i.SndWnd, ReceiveWindow: i.RcvWnd, InFlight: i.InFlight,
		BytesIn: i.BytesIn, BytesOut: i.BytesOut, SegmentsIn: i.SegsIn, SegmentsOut: i.SegsOut,
		Retransmits: i.Retransmits, PureAcksOut: i.PureAcksOut,
	}
	if h.ClientWScale >= 0 {
		c.ClientWScale = &h.ClientWScale
	}
	if h.ServerWScale >= 0 {
		c.ServerWScale = &h.ServerWScale
	}
	if h.HasDuration {
		c.HandshakeMS = milliseconds(h.Duration)
	}
	if i.RTT > 0 {
		c.RTTMS = milliseconds(i.RTT)
	}
	return c
}

func milliseconds(d time.Duration) *float64 {
	ms := math.Round(float64(d)/float64(time.Microsecond)) / 1000
	return &ms
}

func newRates(samples []Sample) *Rates {
	r := &Rates{ // never null in JSON
		SynAcks: []float64{}, Completed: []float64{}, Dropped: []float64{},
		BytesIn: []float64{}, BytesOut: []float64{}, Open: []int{},
	}
	for _, s := range samples {
		r.SynAcks = append(r.SynAcks, tenths(s.SynAcks))
		r.Completed = append(r.Completed, tenths(s.Completed))
		r.Dropped = append(r.Dropped, tenths(s.Dropped))
		r.BytesIn = append(r.BytesIn, tenths(s.BytesIn))
		r.BytesOut = append(r.BytesOut, tenths(s.BytesOut))
		r.Open = append(r.Open, s.Open)
	}
	return r
}

func tenths(v float64) float64 { return math.Round(v*10) / 10 }

func newTotals(r Reading) *Totals {
	e := &r.Engine
	t := &Totals{
		Packets: map[string]map[string]uint64{}, Stale: r.Err != nil,
		Open: e.Open, Waiting: e.Waiting, Opened: e.Opened,
		SegmentsIn: e.SegmentsIn, SegmentsOut: e.SegmentsOut, BytesIn: e.BytesIn, BytesOut: e.BytesOut,
		PureAcksOut: e.PureAcksOut, ResetsOut: e.ResetsOut, Retransmits: e.Retransmits,
	}
	for i, n := range r.Reasons {
		verdict, reason := bpf.ReasonLabels(bpf.Reason(i))
		if t.Packets[verdict] == nil {
			t.Packets[verdict] = map[string]uint64{}
		}
		t.Packets[verdict][reason] = n
	}
	return t
}
