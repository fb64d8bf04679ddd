// A scripted HTTP server on loopback that answers as an S3 server may, well or badly: each test gives its answers in
// order. It is not an S3 server; it makes the failures that no real one makes on demand.
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { createS3Store, type S3StoreOptions } from "../../stores/s3.ts";
import { S3_DIALECTS } from "../../stores/s3-dialect.ts";
import type { ObjectStore } from "../../stores/store.ts";

export type Seen = {
  readonly method: string;
  readonly path: string;
  readonly headers: IncomingMessage["headers"];
  readonly body: string;
};

/** Answers one request; it may also cut the connection. */
export type Answer = (request: Seen, response: ServerResponse) => void;

/** A plain answer. */
export function answer(status: number, body = "", headers: Record<string, string> = {}): Answer {
  return (request, response) => {
    response.writeHead(status, { "content-length": String(Buffer.byteLength(body)), ...headers });
    response.end(request.method === "HEAD" ? undefined : body);
  };
}

/** An answer as S3 words its failures. */
export function failure(status: number, code: string): Answer {
  const body = `<?xml version="1.0"?><Error><Code>${code}</Code><Message>scripted</Message></Error>`;
  return answer(status, body, { "content-type": "application/xml" });
}

/** Announces more bytes than it sends, then cuts the connection. */
export function cutAfter(sent: string, announced: number, headers: Record<string, string> = {}): Answer {
  return (_request, response) => {
    response.writeHead(206, { "content-length": String(announced), ...headers });
    response.write(sent, () => response.destroy());
  };
}

/** Cuts the connection without an answer. */
export const drop: Answer = (_request, response) => void response.destroy();

/** Never answers. */
export const silence: Answer = () => undefined;

export type Scripted = {
  readonly store: ObjectStore;
  readonly endpoint: string;
  /** The requests so far. */
  readonly seen: readonly Seen[];
  /** Answers not used yet. */
  readonly left: () => number;
};

const credentials = { accessKeyId: "scripted", secretAccessKey: "scripted" };

/** Runs a test against a store whose server gives these answers, one for each request. */
export async function withAnswers(
  answers: readonly Answer[],
  body: (scripted: Scripted) => Promise<void>,
  options: Partial<S3StoreOptions> = {},
): Promise<void> {
  const queue = [...answers];
  const seen: Seen[] = [];
  const server = createServer((request, response) => {
    const pieces: Buffer[] = [];
    request.on("data", (piece: Buffer) => pieces.push(piece));
    request.on("end", () => {
      const { method = "", url = "", headers } = request;
      const entry = { method, path: url, headers, body: Buffer.concat(pieces).toString("latin1") };
      seen.push(entry);
      const next = queue.shift() ?? failure(418, "NothingScripted");
      next(entry, response);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  const port = typeof address === "object" && address !== null ? address.port : 0;
  const policy = { attemptsMax: 3, delayMs: 0.1, delayMsMax: 1, random: () => 0 };
  const endpoint = `http://127.0.0.1:${port}`;
  const place = { bucket: "bucket", prefix: "yard", endpoint, region: "us-east-1" };
  const store = createS3Store({ dialect: S3_DIALECTS.radosgw, credentials, policy, ...place, ...options });
  try {
    await body({ store, endpoint, seen, left: () => queue.length });
  } finally {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  }
}
