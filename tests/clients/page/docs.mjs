// Opens /docs in headless Chromium, tries GET /v1/agents there, and prints what was seen as JSON.

import { mkdtemp, rm } from "node:fs/promises";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";

const { chromium } = createRequire(join(process.env.NODE_MODULES, "/"))("playwright-core");
const [url] = process.argv.slice(2);

const profile = await mkdtemp(join(tmpdir(), "docs-page-"));
const browser = await chromium.launchPersistentContext(profile, {
  executablePath: process.env.CHROMIUM,
  headless: true,
  args: [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
  ],
});
try {
  const page = await browser.newPage();
  page.setDefaultTimeout(60_000);
  const hosts = new Set();
  const complaints = [];
  page.on("request", (request) => {
    const { host, protocol } = new URL(request.url());
    if (protocol !== "data:") hosts.add(host);
  });
  page.on("requestfailed", (request) => complaints.push(`failed: ${request.url()}`));
  page.on("response", (response) => {
    if (response.status() >= 400) complaints.push(`${response.status()}: ${response.url()}`);
  });
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) complaints.push(message.text());
  });

  await page.goto(url);
  const operation = page.locator("#operations-AgentService-AgentService_IndexAgents");
  await operation.waitFor();
  const operations = await page.locator(".opblock").count();
  await operation.locator(".opblock-summary-control").click();
  await operation.getByRole("button", { name: "Try it out" }).click();
  await operation.getByRole("button", { name: "Execute" }).click();
  const live = operation.locator(".live-responses-table");
  await live.waitFor();
  const status = (await live.locator("tbody .response-col_status").first().innerText()).trim();
  const body = await live.locator("tbody .highlight-code code").first().innerText();
  const agents = JSON.parse(body).agents.length;
  console.log(JSON.stringify({ operations, status, agents, complaints, hosts: [...hosts] }));
} finally {
  await browser.close();
  await rm(profile, { recursive: true, force: true });
}
