// Keeps a server-rendered page fresh. The server is the only renderer: when something changes, the page is fetched again and
// its live regions are exchanged, so nothing from an event is ever turned into markup here.
const root = document.body.dataset.root;
const WORDS = { queued: "queued", converting: "converting", lost: "lost sight of", retrying: "waiting to retry", succeeded: "succeeded", skipped: "skipped", failed: "failed", cancelled: "cancelled", discarded: "discarded" };

const theme = document.getElementById("theme");
theme.hidden = false;
theme.addEventListener("click", () => {
  const html = document.documentElement;
  const dark = html.dataset.theme ? html.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  html.dataset.theme = dark ? "light" : "dark";
  localStorage.setItem("ics-theme", html.dataset.theme);
});

function prepare(scope) {
  for (const button of scope.querySelectorAll("button[data-copy]")) button.hidden = !navigator.clipboard;
}
prepare(document);

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button[data-copy]");
  if (!button) return;
  await navigator.clipboard.writeText(button.dataset.copy);
  announce("Copied");
  button.classList.add("done");
  setTimeout(() => button.classList.remove("done"), 1200);
});

const every = document.getElementById("every");
if (every) {
  const boxes = document.querySelectorAll('#letters input[name="id"]');
  every.hidden = false;
  every.addEventListener("change", () => { for (const box of boxes) box.checked = every.checked; });
}

const announcements = document.getElementById("announce");
function announce(text) { announcements.textContent = text; }

// Times

const SCALE = [[90, 1, "s"], [5400, 60, "min"], [129600, 3600, "h"], [Infinity, 86400, "d"]];
function refreshTimes() {
  for (const element of document.querySelectorAll("time[data-relative]")) {
    const seconds = (Date.now() - Date.parse(element.dateTime)) / 1000;
    const [, size, word] = SCALE.find(([limit]) => Math.abs(seconds) < limit);
    const amount = `${Math.round(Math.abs(seconds) / size)} ${word}`;
    const text = seconds >= 0 ? `${amount} ago` : `in ${amount}`;
    if (element.textContent !== text) element.textContent = text;
  }
}
setInterval(refreshTimes, 5000);

// Live regions

let waiting = 0, loading = false, again = false;
function refreshSoon() {
  if (!waiting) waiting = setTimeout(refresh, 400);
}

async function refresh() {
  waiting = 0;
  if (document.hidden) { again = true; return; }
  if (loading) { again = true; return; }
  loading = true;
  try {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
    if (!answer.ok) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const old of document.querySelectorAll("[data-live]")) {
      const fresh = page.getElementById(old.id);
      if (!fresh || fresh.innerHTML === old.dataset.shown || old.contains(document.activeElement) && document.activeElement.matches("input, select")) continue;
      exchange(old, fresh);
    }
  } finally {
    loading = false;
    if (again) { again = false; refreshSoon(); }
  }
}

// The focus stays where it was, by the link's address or the position among what can be focused.
function exchange(old, fresh) {
  const focused = old.contains(document.activeElement) ? document.activeElement : null;
  const key = focused?.getAttribute("href") ?? focused?.getAttribute("aria-label");
  const scrolled = [...old.querySelectorAll(".scroll")].map((element) => element.scrollLeft);
  const html = fresh.innerHTML;
  old.replaceChildren(...fresh.childNodes);
  old.dataset.shown = html;
  prepare(old);
  old.querySelectorAll(".scroll").forEach((element, index) => { element.scrollLeft = scrolled[index] ?? 0; });
  if (key) [...old.querySelectorAll("a, button, [tabindex]")].find((e) => e.getAttribute("href") === key || e.getAttribute("aria-label") === key)?.focus({ preventScroll: true });
}

document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });

if (document.querySelector("[data-live][id]:not(#notice):not(#age)")) {
  const only = document.querySelector("[data-only]")?.dataset.only;
  const badge = document.getElementById("live");
  const word = document.getElementById("live-word");
  const known = new Map();
  badge.hidden = false;
  const stream = new EventSource(`${root}../api/v1/status/events${only ? `?conversion=${encodeURIComponent(only)}` : ""}`);
  const show = (state, text) => { badge.dataset.state = state; word.textContent = text; };
  stream.onopen = () => { show("on", "Live"); refreshSoon(); };
  stream.onerror = () => show("off", "Reconnecting");
  stream.addEventListener("reset", refreshSoon);
  stream.addEventListener("conversion", (event) => {
    const c = JSON.parse(event.data);
    const before = known.get(c.id) ?? document.querySelector(`[data-conversion="${CSS.escape(c.id)}"]`)?.dataset.status;
    known.set(c.id, c.status);
    if (known.size > 5000) known.clear();
    if (c.status === "converting" && before === "converting") {
      for (const bar of document.querySelectorAll(`[data-progress="${CSS.escape(c.id)}"]`)) {
        bar.max = Math.max(1, c.progress_total);
        bar.value = c.progress_done;
      }
      return;
    }
    if (before !== c.status && (only || document.querySelector(`[data-conversion="${CSS.escape(c.id)}"]`))) announce(`${c.repository}:${c.tag} ${WORDS[c.status] ?? c.status}`);
    refreshSoon();
  });
  addEventListener("pagehide", () => stream.close());
  addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
}
setInterval(() => { if (!document.hidden) refreshSoon(); }, 15000);
