import assert from "node:assert/strict";
import http from "node:http";
import type { AddressInfo } from "node:net";
import { test } from "node:test";
import { awaitSpotNotice } from "../../workers/spot-notice.ts";

/** A machine's metadata: the notice is there from the given question on; without a token nothing is answered. */
async function metadata(noticeAt: number) {
  let [asked, tokens] = [0, 0];
  const server = http.createServer((request, response) => {
    const answer = (status: number, text: string) => response.writeHead(status).end(text);
    if (request.method === "PUT" && request.url === "/latest/api/token") {
      tokens += 1;
      answer(200, `token-${tokens}`);
    } else if (request.headers["x-aws-ec2-metadata-token"] !== `token-${tokens}`) answer(401, "");
    else if (request.url !== "/latest/meta-data/spot/instance-action") answer(404, "");
    else {
      asked += 1;
      if (asked >= noticeAt) answer(200, '{"action": "terminate", "time": "2026-11-24T02:00:00Z"}');
      else answer(404, "");
    }
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address() as AddressInfo;
  const close = () => new Promise((resolve) => server.close(resolve));
  return { endpoint: `http://127.0.0.1:${address.port}`, close, asked: () => asked };
}

test("a notice is seen at the question after it came", async () => {
  const machine = await metadata(3);
  const { signal } = new AbortController();
  assert.equal(await awaitSpotNotice({ endpoint: machine.endpoint, signal, intervalMs: 1 }), true);
  assert.equal(machine.asked(), 3);
  await machine.close();
});

test("watching ends with the worker", async () => {
  const machine = await metadata(Number.POSITIVE_INFINITY);
  const stop = new AbortController();
  const watch = awaitSpotNotice({ endpoint: machine.endpoint, signal: stop.signal, intervalMs: 100_000 });
  stop.abort();
  assert.equal(await watch, false);
  await machine.close();
});

test("where nobody answers, nothing is said and the questions end", async () => {
  const machine = await metadata(1);
  await machine.close();
  const { signal } = new AbortController();
  assert.equal(await awaitSpotNotice({ endpoint: machine.endpoint, signal, intervalMs: 1 }), false);
});
