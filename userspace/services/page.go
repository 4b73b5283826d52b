// SPDX-License-Identifier: Apache-2.0

package services

import (
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"math"
	"strconv"
	"strings"

	"github.com/xdptcp/xdptcp/bpf"
)

var (
	//go:embed page.html
	pageHTML string
	//go:embed page.css
	pageCSS string
	//go:embed page.js
	pageJS string
)

var pageTemplate = template.Must(template.New("page").Funcs(template.FuncMap{
	"css":   func() template.CSS { return template.CSS(pageCSS) },
	"js":    func() template.JS { return template.JS(pageJS) },
	"count": count,
	"bytes": byteCount,
	"plus":  func(a uint32, b uint32) uint32 { return a + b },
}).Parse(pageHTML))

// contentSecurityPolicy allows the page its own style and script, by hash, and nothing else.
var contentSecurityPolicy = strings.Join([]string{
	"default-src 'none'",
	"style-src " + cspHash(pageCSS),
	"script-src " + cspHash(pageJS),
	"img-src data:",
	"connect-src 'self'",
	"base-uri 'none'",
	"form-action 'none'",
	"frame-ancestors 'none'",
}, "; ")

func cspHash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

// A page is a Report with all that is only for the eye.
type page struct {
	*Report
	Handshake *handshakeView // nil: not our connection
	Plots     []plot
	Verdicts  []verdictView
}

func newPage(r *Report) *page {
	p := &page{Report: r}
	if r.Connection != nil {
		p.Handshake = newHandshakeView(r)
	}
	if r.Rates != nil {
		p.Plots = newPlots(r.Rates)
	}
	if r.Counters != nil {
		p.Verdicts = newVerdicts(r.Counters)
	}
	return p
}

// Title is the page's first line.
func (p *page) Title() string {
	switch {
	case p.Connection == nil:
		return "This connection did not come through xdptcp."
	case p.Connection.AnsweredBy == "engine":
		return "xdptcp’s engine answered your SYN."
	case p.Interface == "":
		return "XDP answered your SYN."
	default:
		return "XDP on " + p.Interface + " answered your SYN."
	}
}

// Answered names who answered, for the table.
func (p *page) Answered() string {
	if p.Connection.AnsweredBy == "engine" {
		return fmt.Sprintf("the engine, reusing a connection in TIME-WAIT, queue %d", p.Connection.Queue)
	}
	who := "XDP"
	if p.Interface != "" {
		who += " on " + p.Interface
	}
	if p.Mode != "" {
		who += " (" + p.Mode + ")"
	}
	return fmt.Sprintf("%s, queue %d", who, p.Connection.Queue)
}

// A handshakeView is a handshake in words.
type handshakeView struct {
	Duration      string // "about 8.4 ms", "" if unknown
	ShortDuration string // "8.4 ms"
	Offer, Answer string // options of SYN and SYN/ACK
	ClientWindow  string
	ServerWindow  string
	RoundTrip     string // "" if not measured
}

// stepMS is the clock's step, rounded as Connection is: the cookie takes the three lowest bits of the
// timestamp's ticks.
const stepMS = 8.389

func newHandshakeView(r *Report) *handshakeView {
	c := r.Connection
	v := &handshakeView{ClientWindow: scale(c.ClientWScale), ServerWindow: scale(c.ServerWScale)}
	switch {
	case c.HandshakeMS == nil:
	case *c.HandshakeMS < stepMS:
		v.ShortDuration, v.Duration = "< 8.4 ms", "less than 8.4 ms"
	case *c.HandshakeMS < 1000:
		v.ShortDuration = fmt.Sprintf("%.1f ms", *c.HandshakeMS)
		v.Duration = "about " + v.ShortDuration
	default:
		v.ShortDuration = fmt.Sprintf("%.2f s", *c.HandshakeMS/1000)
		v.Duration = "about " + v.ShortDuration
	}
	if c.RTTMS != nil {
		v.RoundTrip = fmt.Sprintf("%.2f ms", *c.RTTMS)
	}
	v.Offer = strings.Join(append([]string{fmt.Sprintf("MSS %d", c.MSS)}, options(c, c.ClientWScale)...), " · ")
	v.Answer = strings.Join(options(c, c.ServerWScale), " · ")
	return v
}

func options(c *Connection, wscale *int) (list []string) {
	if wscale != nil {
		list = append(list, fmt.Sprintf("scale %d", *wscale))
	}
	if c.SACK {
		list = append(list, "SACK")
	}
	if c.Timestamps {
		list = append(list, "timestamps")
	}
	if c.ECN {
		list = append(list, "ECN")
	}
	return list
}

func scale(shift *int) string {
	if shift == nil {
		return "not scaled"
	}
	return fmt.Sprintf("scale %d (× %s)", *shift, count(1<<*shift))
}

// A plot is one curve. page.js draws the same from /json.
type plot struct {
	Key       string // in Rates, and of the ids
	Title     string
	Unit      string
	Now, Peak string
	Line      string // SVG path, in a box of plotWidth × plotHeight
	Area      string
}

const (
	plotWidth  = 240.0
	plotHeight = 56.0
	plotTop    = 4.0 // room for the line's width at the peak
)

func newPlots(r *Rates) []plot {
	open := make([]float64, len(r.Open))
	for i, n := range r.Open {
		open[i] = float64(n)
	}
	return []plot{
		newPlot("synacks", "SYNs answered", "per second", r.SynAcks),
		newPlot("completed", "Handshakes completed", "per second", r.Completed),
		newPlot("dropped", "Packets refused", "per second", r.Dropped),
		newPlot("open", "Connections", "open", open),
	}
}

func newPlot(key, title, unit string, values []float64) plot {
	p := plot{Key: key, Title: title, Unit: unit, Now: "–", Peak: "–"}
	if len(values) == 0 {
		return p
	}
	peak := 0.0
	for _, v := range values {
		peak = max(peak, v)
	}
	p.Now, p.Peak = short(values[len(values)-1]), short(peak)
	p.Line, p.Area = plotPath(values, max(peak, 1))
	return p
}

// plotPath draws values against the right edge, where now is.
func plotPath(values []float64, top float64) (line, area string) {
	var b strings.Builder
	x := func(i int) float64 {
		return plotWidth * float64(plotSeconds-len(values)+i) / (plotSeconds - 1)
	}
	for i, v := range values {
		command := byte('L')
		if i == 0 {
			command = 'M'
		}
		y := plotHeight - (plotHeight-plotTop)*v/top
		fmt.Fprintf(&b, "%c%.1f %.1f", command, x(i), y)
	}
	line = b.String()
	return line, fmt.Sprintf("%sL%.1f %.1fL%.1f %.1fZ", line, plotWidth, plotHeight, x(0), plotHeight)
}

// A verdictView is the counters of one verdict.
type verdictView struct {
	Name    string
	Meaning string
	Reasons []reasonView
}

type reasonView struct {
	Verdict, Name, Meaning string
	Packets                uint64
}

func newVerdicts(t *Totals) []verdictView {
	list := []verdictView{
		{Name: "tx", Meaning: "answered in place"},
		{Name: "redirect", Meaning: "to the engine"},
		{Name: "drop", Meaning: "refused"},
		{Name: "pass", Meaning: "left to the kernel"},
	}
	for i := range list {
		for r := range bpf.ReasonCount {
			verdict, name := bpf.ReasonLabels(bpf.Reason(r))
			if verdict == list[i].Name {
				list[i].Reasons = append(list[i].Reasons,
					reasonView{verdict, name, reasonMeanings[bpf.Reason(r)], t.Packets[verdict][name]})
			}
		}
	}
	return list
}

// reasonMeanings explain the reasons to a reader of the page; bpf/types.h defines them.
var reasonMeanings = map[bpf.Reason]string{
	bpf.PassNotTCP:       "neither IPv4 nor IPv6, or not TCP",
	bpf.PassNoService:    "a port that no service is on",
	bpf.PassNotLocal:     "the port is served, the address is not",
	bpf.PassOtherHost:    "for another MAC address",
	bpf.PassFragment:     "a fragment",
	bpf.PassIPOptions:    "routed by its source, and perhaps not arrived yet",
	bpf.PassBadIP:        "an IP header with a wrong length, checksum or option",
	bpf.PassNoSocket:     "no longer counted",
	bpf.TxSynAck:         "a SYN, answered with a cookie",
	bpf.RedirectOpened:   "a final ACK with a valid cookie",
	bpf.RedirectSegment:  "a segment of a connection",
	bpf.RedirectSyn:      "a SYN on a connection that exists",
	bpf.DropBadTCP:       "a malformed TCP header",
	bpf.DropBadFlags:     "SYN together with FIN or RST, or no flag that could mean anything",
	bpf.DropBadSource:    "from an address that nobody can answer to",
	bpf.DropBadChecksum:  "a wrong TCP checksum",
	bpf.DropBadCookie:    "acknowledges a number that we never chose",
	bpf.DropBadTimestamp: "a right cookie with a forged or old timestamp",
	bpf.DropExpiredKey:   "a cookie of a key no longer in use",
	bpf.DropNoFlow:       "a RST or FIN of no connection",
	bpf.DropTableFull:    "a valid final ACK, but the table is full",
	bpf.DropNoRoom:       "the driver left no room to answer",
	bpf.PassNoLease:      "for a service, but its daemon is gone or hangs",
	bpf.PassDisarmed:     "of no connection of ours, for a service that is not armed",
	bpf.PassPeace:        "a SYN for a service of the kernel, while there are few",
	bpf.PassKernelFlow:   "of a connection that the kernel has",
	bpf.PassHandedOver:   "a final ACK with a valid cookie, for a service of the kernel",
	bpf.RedirectICMP:     "an ICMP error about a connection",
	bpf.RedirectSynAck:   "a SYN, answered through another interface",
	bpf.TxReset:          "a final ACK without a valid cookie, answered with RST",
	bpf.DropLand:         "a SYN that claims to come from its own destination",
	bpf.DropDenied:       "from an address that may not connect",
	bpf.DropReplyCap:     "one reply too many to the same network",
	bpf.DropRateLimited:  "a valid final ACK, but too many at a time",
	bpf.DropNoRoute:      "no route leads back to its source",
	bpf.DropNoSocket:     "of a connection, but its queue has no socket",
	bpf.PassNoListener:   "handed to the kernel, where nobody listens",
	bpf.PassNotAssigned:  "handed to the kernel, which refused it",
	bpf.PassTwoTags:      "for a service of the kernel, with two VLAN tags",
}

// count groups digits by three, with narrow no-break spaces.
func count(n uint64) string {
	digits := strconv.FormatUint(n, 10)
	var b strings.Builder
	for i, d := range digits {
		if i > 0 && (len(digits)-i)%3 == 0 {
			b.WriteRune('\u202f')
		}
		b.WriteRune(d)
	}
	return b.String()
}

// short writes a number in at most five characters: 0, 7.3, 940, 12.5k, 3.1M.
func short(v float64) string { return scaled(v, []string{"", "k", "M", "G", "T"}) }

// byteCount writes a number of bytes: 940 B, 12.5 kB.
func byteCount(n uint64) string {
	return scaled(float64(n), []string{"\u202fB", "\u202fkB", "\u202fMB", "\u202fGB", "\u202fTB"})
}

func scaled(v float64, units []string) string {
	i := 0
	for v >= 999.5 && i < len(units)-1 {
		v /= 1000
		i++
	}
	decimals := 0
	if v < 99.95 && v != math.Trunc(v) {
		decimals = 1
	}
	return strconv.FormatFloat(v, 'f', decimals, 64) + units[i]
}
