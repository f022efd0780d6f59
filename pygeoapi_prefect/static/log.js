// The log of a job, followed while it goes on.

import { apiUrl, h, pause, Problem, requestJson, t } from "./common.js";

const POLL_MILLISECONDS = 1500;
const POLL_MAX_MILLISECONDS = 15_000;
const RETRY_MAX_MILLISECONDS = 30_000;
const LIMIT = 200;

/**
 * Append the lines of a job's log to an element, until there can be no more.
 *
 * @param jobId the job
 * @param element where lines go
 * @param report called with a text when the server cannot be reached, and with "" when it can
 * @returns whether there is a log: servers may keep theirs to themselves
 */
export async function followLog(jobId, element, report) {
  const seen = new Set();
  let query = new URLSearchParams({ limit: LIMIT });
  let wait = POLL_MILLISECONDS;
  element.replaceChildren(h("p", { class: "log-empty" }, t("No messages yet.")));
  for (;;) {
    let page;
    try {
      const url = apiUrl("jobs", jobId, "logs");
      url.search = query.toString();
      page = await requestJson(url);
      report("");
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      if (problem.status >= 400 && problem.status < 500) return seen.size > 0;
      report(t("The server cannot be reached. Trying again …"));
      wait = Math.min(wait * 2, RETRY_MAX_MILLISECONDS);
      await pause(wait);
      continue;
    }
    const fresh = page.logs.filter((line) => !seen.has(line.id));
    append(element, fresh);
    for (const line of fresh) seen.add(line.id);
    if (page.complete) {
      if (seen.size === 0) element.replaceChildren(h("p", { class: "log-empty" }, t("No messages.")));
      return true;
    }
    const next = page.links.find((link) => link.rel === "next");
    query = new URL(next.href).searchParams;
    if (page.hasMore) continue;
    wait = fresh.length ? POLL_MILLISECONDS : Math.min(wait * 1.3, POLL_MAX_MILLISECONDS);
    await pause(wait);
  }
}

function append(element, lines) {
  if (lines.length === 0) return;
  const wasAtEnd = element.scrollHeight - element.scrollTop - element.clientHeight < 40;
  element.querySelector(".log-empty")?.remove();
  element.append(...lines.map(lineElement));
  if (wasAtEnd) element.scrollTop = element.scrollHeight;
}

function lineElement({ timestamp, level, message, task }) {
  const time = new Date(timestamp).toLocaleTimeString(undefined, { hour12: false });
  const kind = ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"].includes(level) ? level : "INFO";
  return h(
    "div",
    { class: `log-line log-${kind.toLowerCase()}` },
    h("time", { datetime: timestamp, title: timestamp }, time),
    " ",
    h("span", { class: "log-level" }, level),
    " ",
    h("span", { class: "log-text" }, task ? h("span", { class: "log-task" }, `${task} `) : null, message),
  );
}
