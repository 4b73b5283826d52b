// SPDX-License-Identifier: Apache-2.0

package services

import (
	"bytes"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"github.com/xdptcp/xdptcp/bpf"
)

// pages are the forms that the page takes.
func pages() map[string]*Report {
	src := &fakeCounters{}
	src.reasons[bpf.TxSynAck] = 1234567
	samples := make([]Sample, plotSeconds)
	for i := range samples {
		samples[i] = Sample{SynAcks: float64(i * i), Open: i}
	}
	full := func() *Report {
		return &Report{
			Interface: "eth0", Mode: "native", Connection: newConnection(linuxHandshake(), linuxInfo()),
			Rates: newRates(samples), Counters: newTotals(NewStatus(src).Read()),
		}
	}
	m := map[string]*Report{"all options": full(), "no options": full(), "by the engine": full(), "generic mode": full(), "nothing known": {},
		"kernel socket": full(), "first second": full(), "unreadable counters": full(), "hostile interface name": full()}
	h := linuxHandshake()
	h.ClientWScale, h.ServerWScale, h.SACK, h.Timestamps, h.ECN, h.HasDuration, h.Duration = -1, -1, false, false, false, false, 0
	m["no options"].Connection = newConnection(h, linuxInfo())
	m["by the engine"].Connection.AnsweredBy = "engine"
	m["generic mode"].Mode = "generic"
	m["kernel socket"].Connection = nil
	m["first second"].Rates = newRates(nil)
	m["unreadable counters"].Counters.Stale = true
	m["hostile interface name"].Interface = `<b>"&'</b>`
	return m
}

func render(t *testing.T, r *Report) string {
	t.Helper()
	var b bytes.Buffer
	if err := pageTemplate.Execute(&b, newPage(r)); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

var voidElements = []string{"meta", "link", "br", "hr", "img", "input"}

// Elements that end an open <p>, although the source looks nested.
var notInParagraph = []string{"p", "div", "section", "table", "dl", "ul", "ol", "h1", "h2", "h3", "figure", "header", "footer", "main", "form"}

var entity = regexp.MustCompile(`&[^;\s]*;?`)

func TestThePageIsStrictHTML(t *testing.T) {
	for name, report := range pages() {
		t.Run(name, func(t *testing.T) {
			text := render(t, report)
			if len(text) > 40_000 {
				t.Errorf("%d bytes: too large", len(text))
			}
			if !strings.HasPrefix(text, "<!DOCTYPE html>\n<html lang=\"en\">") {
				t.Errorf("starts with %.60q", text)
			}
			var open []string
			ids := map[string]bool{}
			var references []string
			z := html.NewTokenizer(strings.NewReader(text))
			for {
				kind := z.Next()
				if kind == html.ErrorToken {
					break
				}
				raw := string(z.Raw())
				token := z.Token()
				switch kind {
				case html.StartTagToken, html.SelfClosingTagToken:
					seen := map[string]bool{}
					for _, a := range token.Attr {
						if seen[a.Key] {
							t.Errorf("attribute %s twice in %s", a.Key, raw)
						}
						seen[a.Key] = true
						checkAttribute(t, raw, a)
						switch a.Key {
						case "id":
							if ids[a.Val] {
								t.Errorf("id %s twice", a.Val)
							}
							ids[a.Val] = true
						case "aria-labelledby":
							references = append(references, strings.Fields(a.Val)...)
						}
					}
					if slices.Contains(open, "p") && slices.Contains(notInParagraph, token.Data) {
						t.Errorf("%s inside of a paragraph", raw)
					}
					svg := slices.Contains(open, "svg")
					if kind == html.SelfClosingTagToken && !svg {
						t.Errorf("%s: only SVG has self-closing tags", raw)
					}
					if kind == html.StartTagToken && (svg || !slices.Contains(voidElements, token.Data)) {
						open = append(open, token.Data)
					}
				case html.EndTagToken:
					if len(open) == 0 || open[len(open)-1] != token.Data {
						t.Fatalf("%s closes %v", raw, open)
					}
					open = open[:len(open)-1]
				case html.TextToken:
					if last := open[max(0, len(open)-1):]; len(last) == 1 && (last[0] == "script" || last[0] == "style") {
						break
					}
					checkEntities(t, raw)
					if strings.ContainsAny(raw, "<>") || strings.Contains(raw, "%!") || strings.Contains(raw, "<nil>") {
						t.Errorf("text %q", raw)
					}
				}
			}
			if len(open) > 0 {
				t.Errorf("left open: %v", open)
			}
			for _, id := range references {
				if !ids[id] {
					t.Errorf("label %s is not there", id)
				}
			}
			if _, err := html.Parse(strings.NewReader(text)); err != nil {
				t.Error(err)
			}
		})
	}
}

func checkEntities(t *testing.T, text string) {
	t.Helper()
	for _, e := range entity.FindAllString(text, -1) {
		if !strings.HasSuffix(e, ";") || html.UnescapeString(e) == e {
			t.Errorf("unknown entity %q in %q", e, text)
		}
	}
}

// checkAttribute refuses what the Content-Security-Policy would.
func checkAttribute(t *testing.T, raw string, a html.Attribute) {
	t.Helper()
	if a.Key == "style" || strings.HasPrefix(a.Key, "on") {
		t.Errorf("inline %s in %s", a.Key, raw)
	}
	if a.Key == "src" || a.Key == "href" && !strings.HasPrefix(a.Val, "/") && !strings.HasPrefix(a.Val, "data:image/") {
		t.Errorf("%s refers to another place", raw)
	}
}

func TestTheContentSecurityPolicyFitsThePage(t *testing.T) {
	text := render(t, pages()["all options"])
	for _, element := range []string{"style", "script"} {
		_, rest, _ := strings.Cut(text, "<"+element+">")
		content, _, ok := strings.Cut(rest, "</"+element+">")
		if want := element + "-src " + cspHash(content) + ";"; !ok || !strings.Contains(contentSecurityPolicy+";", want) {
			t.Errorf("policy %q does not allow the page's own %s", contentSecurityPolicy, element)
		}
	}
	if strings.Contains(pageCSS, "url(") || strings.Contains(pageCSS, "@import") {
		t.Error("the style loads something")
	}
}

// What page.js looks for must be in the page, and what it reads must be in the JSON.
func TestTheScriptFindsItsElements(t *testing.T) {
	report := pages()["all options"]
	text := render(t, report)
	_, list, _ := strings.Cut(pageJS, "for (const key of [")
	list, _, _ = strings.Cut(list, "])")
	keys := strings.Split(strings.ReplaceAll(list, `"`, ""), ", ")
	if len(keys) != len(newPlots(report.Rates)) {
		t.Errorf("the script draws %v", keys)
	}
	for _, key := range keys {
		for _, id := range []string{"line-", "area-", "now-", "peak-"} {
			if !strings.Contains(text, `id="`+id+key+`"`) {
				t.Errorf("no id %s%s", id, key)
			}
		}
	}
	if !strings.Contains(text, `id="live"`) {
		t.Error("no id live")
	}
	cells := regexp.MustCompile(`data-packets="(\w+)\.(\w+)"`).FindAllStringSubmatch(text, -1)
	if len(cells) != bpf.ReasonCount {
		t.Errorf("%d counters shown, want %d", len(cells), bpf.ReasonCount)
	}
	for _, m := range cells {
		if _, ok := report.Counters.Packets[m[1]][m[2]]; !ok {
			t.Errorf("%s %s is not in the JSON", m[1], m[2])
		}
	}
}

func TestEachReasonIsExplained(t *testing.T) {
	for r := range bpf.ReasonCount {
		if reasonMeanings[bpf.Reason(r)] == "" {
			_, name := bpf.ReasonLabels(bpf.Reason(r))
			t.Errorf("reason %s has no meaning on the page", name)
		}
	}
}

func TestThePageSays(t *testing.T) {
	all := pages()
	for _, tt := range []struct {
		page string
		want []string
		not  []string
	}{
		{"all options", []string{
			"XDP on eth0 answered your SYN.", "XDP on eth0 (native), queue 0", "The network driver replied",
			">SYN</tspan> seq 500<", ">SYN/ACK</tspan> seq 3735928559 ack 501<", ">ACK</tspan> seq 501 ack 3735928560<",
			">this page</tspan> seq 3735948560 ack 511<", "MSS 1460 · scale 7 · SACK · timestamps · ECN", "8.4 ms",
			"scale 7 (× 128)", "0xdeadbeef", "1\u202f234\u202f567", "192.0.2.7:51234", "round trip 8.12 ms",
		}, []string{"unknown", "not scaled", "could not be read"}},
		{"no options", []string{"only TCP timestamps would tell", "not scaled", ">MSS 1460<"}, []string{"8.4 ms", "ECN</dt><dd>yes"}},
		{"by the engine", []string{"engine answered your SYN", "reusing a connection in TIME-WAIT"}, []string{">XDP<"}},
		{"generic mode", []string{"XDP on eth0 (generic), queue 0", "kept nothing of you"}, []string{"network driver"}},
		{"kernel socket", []string{"did not come through xdptcp", "SYNs answered"}, []string{"The handshake"}},
		{"nothing known", []string{"did not come through xdptcp"}, []string{"<script", "Every packet", "last minute"}},
		{"first second", []string{"–"}, []string{"NaN"}},
		{"unreadable counters", []string{"could not be read just now"}, nil},
		{"hostile interface name", []string{"&lt;b&gt;"}, []string{"<b>&"}},
	} {
		text := render(t, all[tt.page])
		for _, want := range tt.want {
			if !strings.Contains(text, want) {
				t.Errorf("%s: no %q", tt.page, want)
			}
		}
		for _, not := range tt.not {
			if strings.Contains(text, not) {
				t.Errorf("%s: has %q", tt.page, not)
			}
		}
	}
}

func TestDurationsAreNotMoreExactThanTheirClock(t *testing.T) {
	for _, tt := range []struct {
		ticks      int
		brief, all string
	}{
		{0, "< 8.4 ms", "less than 8.4 ms"},
		{7, "< 8.4 ms", "less than 8.4 ms"},
		{8, "8.4 ms", "about 8.4 ms"},
		{60, "62.9 ms", "about 62.9 ms"},
		{2000, "2.10 s", "about 2.10 s"},
	} {
		h := linuxHandshake()
		h.Duration = time.Duration(tt.ticks) << bpf.TickShift
		v := newHandshakeView(&Report{Connection: newConnection(h, linuxInfo())})
		if v.ShortDuration != tt.brief || v.Duration != tt.all {
			t.Errorf("%d ticks: %q and %q", tt.ticks, v.ShortDuration, v.Duration)
		}
	}
}

func TestPlotsEndAtTheRightEdge(t *testing.T) {
	for _, tt := range []struct {
		name   string
		values []float64
		line   string
		now    string
		peak   string
	}{
		{"no samples", nil, "", "–", "–"},
		{"one sample", []float64{5}, "M240.0 4.0", "5", "5"},
		{"all zero", []float64{0, 0}, "M235.9 56.0L240.0 56.0", "0", "0"},
		{"rising", []float64{0, 1500}, "M235.9 56.0L240.0 4.0", "1.5k", "1.5k"},
	} {
		p := newPlot("key", "", "", tt.values)
		if p.Line != tt.line || p.Now != tt.now || p.Peak != tt.peak {
			t.Errorf("%s: line %q, now %s, peak %s", tt.name, p.Line, p.Now, p.Peak)
		}
	}
	full := newPlot("key", "", "", make([]float64, plotSeconds))
	if !strings.HasPrefix(full.Line, "M0.0 ") || !strings.HasSuffix(full.Area, "L240.0 56.0L0.0 56.0Z") {
		t.Errorf("60 samples: %q", full.Area)
	}
}

func TestNumbersForPeople(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0", 7.25: "7.2", 42: "42", 99.94: "99.9", 99.96: "100", 940: "940", 999.4: "999", 999.6: "1.0k",
		12500: "12.5k", 123456: "123k", 3.1e6: "3.1M", 5e15: "5000T",
	} {
		if got := short(v); got != want {
			t.Errorf("short(%v) = %s, want %s", v, got, want)
		}
	}
	for n, want := range map[uint64]string{0: "0", 999: "999", 1000: "1 000", 1234567: "1 234 567"} {
		if got := strings.ReplaceAll(count(n), "\u202f", " "); got != want {
			t.Errorf("count(%d) = %s, want %s", n, got, want)
		}
	}
	if got := byteCount(12500); got != "12.5\u202fkB" {
		t.Errorf("byteCount: %q", got)
	}
}
