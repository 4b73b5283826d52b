"use strict";
// Redraws what changes, from /json, once a second. page.go draws the same.
(() => {
  const $ = (id) => document.getElementById(id);
  const scaled = (v, units) => {
    let i = 0;
    for (; v >= 999.5 && i < units.length - 1; i++) v /= 1000;
    return v.toFixed(v < 99.95 && v !== Math.trunc(v) ? 1 : 0) + units[i];
  };
  const short = (v) => scaled(v, ["", "k", "M", "G", "T"]);
  const count = (n) => String(n).replace(/\B(?=(\d{3})+$)/g, "\u202f");

  const draw = (key, values) => {
    if (!values.length) return;
    const peak = Math.max(...values), top = Math.max(peak, 1);
    const x = (i) => (240 * (60 - values.length + i) / 59).toFixed(1);
    const line = values.map((v, i) => (i ? "L" : "M") + x(i) + " " + (56 - 52 * v / top).toFixed(1)).join("");
    $("line-" + key).setAttribute("d", line);
    $("area-" + key).setAttribute("d", `${line}L240.0 56.0L${x(0)} 56.0Z`);
    $("now-" + key).textContent = short(values[values.length - 1]);
    $("peak-" + key).textContent = short(peak);
  };

  const live = (text) => { if ($("live").textContent !== text) $("live").textContent = text; };

  const refresh = async () => {
    let wait = 1000;
    if (!document.hidden) {
      try {
        const answer = await fetch("/json", { cache: "no-store", signal: AbortSignal.timeout(5000) });
        if (!answer.ok) throw new Error(answer.status);
        const { rates, counters } = await answer.json();
        for (const key of ["synacks", "completed", "dropped", "open"]) draw(key, rates[key]);
        for (const cell of document.querySelectorAll("[data-packets]")) {
          const [verdict, reason] = cell.dataset.packets.split(".");
          const n = counters.packets[verdict][reason];
          cell.textContent = count(n);
          cell.parentNode.classList.toggle("zero", n === 0);
        }
        for (const cell of document.querySelectorAll("[data-total]"))
          cell.textContent = count(counters[cell.dataset.total]);
        live("live");
      } catch {
        live("no answer, trying again");
        wait = 5000;
      }
    }
    setTimeout(refresh, wait);
  };
  refresh();
})();
