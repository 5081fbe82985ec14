// Serves a page with a program on ORIGIN, opens it in headless Chromium, and prints what the
// page's `tour(ADDRESS)` answers: `browser.mjs ORIGIN ADDRESS PROGRAM`.

import { createServer } from "node:http";
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { once } from "node:events";

const [origin, address, program] = process.argv.slice(2);
const { chromium } = createRequire(`${process.env.NODE_PATH}/`)("playwright-core");

const files = {
  "/": ["text/html", `<!doctype html><link rel="icon" href="data:,"><script type="module" src="/tour.js"></script>`],
  "/tour.js": ["text/javascript", readFileSync(program)],
};
const server = createServer((request, response) => {
  const [type, body] = files[request.url] ?? [];
  response.writeHead(body ? 200 : 404, { "content-type": type ?? "text/plain" }).end(body);
});
const { hostname, port } = new URL(origin);
server.listen(Number(port), hostname);
await once(server, "listening");

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM,
  // Containers have neither user namespaces nor a large /dev/shm.
  args: ["--no-sandbox", "--disable-dev-shm-usage"],
});
try {
  const page = await browser.newPage();
  page.on("console", (message) => console.error(message.text()));
  await page.goto(origin);
  console.log(await page.evaluate((address) => globalThis.tour(address), address));
} finally {
  await browser.close();
  server.close();
}
