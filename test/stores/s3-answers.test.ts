// What the S3 store makes of the answers of servers, good and bad. Runs everywhere: the server is scripted.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";
import type { ErrorCode } from "../../core/error.ts";
import { openStore } from "../../stores/open.ts";
import { createRetryStore } from "../../stores/retry.ts";
import { S3_DIALECTS } from "../../stores/s3-dialect.ts";
import type { Region } from "../../stores/store.ts";
import { listAll, rejectsWith } from "./conformance.ts";
import { patterned } from "./patterned.ts";
import { type Answer, answer, cutAfter, drop, failure, silence, withAnswers } from "./scripted-s3.ts";

const MIB = 1024 * 1024;
const policy = { attemptsMax: 4, delayMs: 0.1, delayMsMax: 1, random: () => 0 };
const range = (text: string, offset: number, total: number) =>
  answer(206, text, { "content-range": `bytes ${offset}-${offset + text.length - 1}/${total}` });
const headed = (bytes: number, etag: string, headers: Record<string, string> = {}): Answer =>
  answer(200, "", { "content-length": String(bytes), etag: `"${etag}"`, ...headers });
const read = async (bytes: number) => new Uint8Array(bytes);
const textOf = (bytes: Uint8Array) => new TextDecoder().decode(bytes);

test("each failure has its code, whether it may pass, and is asked only once", async () => {
  const expected: readonly (readonly [number, string, ErrorCode, boolean])[] = [
    [503, "SlowDown", "StoreUnavailable", true],
    [500, "InternalError", "StoreUnavailable", true],
    [502, "BadGatewayOfSomeProxy", "StoreUnavailable", true],
    [400, "RequestTimeout", "StoreUnavailable", true],
    [429, "TooManyRequests", "StoreUnavailable", true],
    [403, "RequestTimeTooSkewed", "StoreUnavailable", true],
    [409, "OperationAborted", "StoreConflict", true],
    [403, "AccessDenied", "StoreAccessDenied", false],
    [403, "InvalidAccessKeyId", "StoreCredentialsInvalid", false],
    [403, "SignatureDoesNotMatch", "StoreCredentialsInvalid", false],
    [400, "ExpiredToken", "StoreCredentialsInvalid", false],
    [404, "NoSuchBucket", "StoreBucketMissing", false],
    [301, "PermanentRedirect", "StoreBucketMissing", false],
    [400, "KeyTooLongError", "StoreKeyInvalid", false],
    [400, "EntityTooLarge", "StoreObjectTooLarge", false],
    [403, "QuotaExceeded", "StoreFull", false],
    [400, "SomethingNew", "StoreFailed", false],
  ];
  for (const [status, name, code, retryable] of expected) {
    await withAnswers([failure(status, name)], async ({ store, seen }) => {
      const error = await rejectsWith(store.get("a", 10), code);
      assert.equal(error.retryable, retryable, name);
      assert.deepEqual(error.where, { store: "s3://bucket/yard", file: "a" });
      // What is denied may be missing: a listing is asked, which says nothing here.
      assert.equal(seen.length, code === "StoreAccessDenied" ? 2 : 1, "the client itself does not try again");
    });
  }
});

test("a refused HEAD, which has no body, is explained by a GET of one byte", async () => {
  const cases: readonly (readonly [number, string, ErrorCode])[] = [
    [400, "ExpiredToken", "StoreCredentialsInvalid"],
    [403, "InvalidAccessKeyId", "StoreCredentialsInvalid"],
    [403, "AccessDenied", "StoreAccessDenied"],
    [403, "RequestTimeTooSkewed", "StoreUnavailable"],
  ];
  for (const [status, name, code] of cases) {
    await withAnswers([failure(status, name), failure(status, name)], async ({ store, seen }) => {
      const error = await rejectsWith(store.head("a"), code);
      assert.match(error.found ?? "", new RegExp(`^${name}`));
      assert.deepEqual(
        seen.slice(0, 2).map(({ method, headers }) => [method, headers.range]),
        [
          ["HEAD", undefined],
          ["GET", "bytes=0-0"],
        ],
      );
    });
  }
  // The object may be read after all: what HEAD said stands.
  await withAnswers([answer(403), range("x", 0, 10)], ({ store }) =>
    rejectsWith(store.head("a"), "StoreAccessDenied").then(() => undefined),
  );
});

test("what is denied to whoever may list only a part of the bucket is missing when its listing says so", async () => {
  const denied = failure(403, "AccessDenied");
  const listing = (...keys: string[]) =>
    answer(200, `<ListBucketResult>${keys.map((key) => `<Contents><Key>${key}</Key></Contents>`)}</ListBucketResult>`);
  await withAnswers([denied, listing(), answer(403), denied, listing("yard/a-longer-key")], async ({ store, seen }) => {
    assert.equal(await store.get("a", 10), undefined);
    assert.match(seen[1]?.path ?? "", /list-type=2&max-keys=1&prefix=yard%2Fa$/);
    assert.equal(await store.head("a"), undefined);
  });
  await withAnswers([denied, listing("yard/a")], ({ store }) =>
    rejectsWith(store.get("a", 10), "StoreAccessDenied").then(() => undefined),
  );
  await withAnswers([denied, failure(503, "SlowDown")], ({ store }) =>
    rejectsWith(store.get("a", 10), "StoreUnavailable").then(() => undefined),
  );
});

test("a server that asks to slow down is asked again by the retry wrapper until it answers", async () => {
  const slow = failure(503, "SlowDown");
  await withAnswers([slow, drop, slow, answer(200, "content", { etag: '"e"' })], async ({ store, seen }) => {
    const found = await createRetryStore(store, policy).get("a", 10);
    assert.equal(textOf(found?.bytes ?? new Uint8Array()), "content");
    assert.equal(seen.length, 4);
  });
  await withAnswers([slow, slow, slow, slow, slow], async ({ store, seen }) => {
    await rejectsWith(createRetryStore(store, policy).get("a", 10), "StoreUnavailable");
    assert.equal(seen.length, 4);
  });
});

test("a body that breaks off is no short object: it is read again", async () => {
  const cut = cutAfter("0123", 10, { "content-range": "bytes 5-14/100" });
  await withAnswers([cut], async ({ store }) => {
    const error = await rejectsWith(store.readInto("a", 5, await read(10)), "StoreUnavailable");
    assert.equal(error.retryable, true);
  });
  await withAnswers([cut, drop, range("0123456789", 5, 100)], async ({ store, seen }) => {
    const into = await read(10);
    await createRetryStore(store, policy).readInto("a", 5, into);
    assert.equal(textOf(into), "0123456789");
    assert.equal(seen[2]?.headers.range, "bytes=5-14");
  });
});

test("bodies that come in pieces of any size are read exactly, several at a time", async () => {
  const stored = patterned(1_000_003);
  const inPieces: Answer = (_request, response) => {
    response.writeHead(206, {
      "content-length": stored.length,
      "content-range": `bytes 0-${stored.length - 1}/${stored.length}`,
    });
    const sizes = [1, 70_000, 3, 65_536, 200_000];
    let sent = 0;
    for (let turn = 0; sent < stored.length; turn++) {
      const size = sizes[turn % sizes.length] ?? 1;
      response.write(stored.subarray(sent, sent + size));
      sent += size;
    }
    response.end();
  };
  await withAnswers([inPieces, inPieces, inPieces], async ({ store }) => {
    const reads = [0, 1, 2].map(() => new Uint8Array(stored.length));
    await Promise.all(reads.map((into) => store.readInto("a", 0, into)));
    for (const into of reads) assert.equal(Buffer.compare(into, stored), 0);
  });
});

test("a range beyond the end is a short read, by 206 and by 416", async () => {
  await withAnswers([range("0123", 5, 9), failure(416, "InvalidRange")], async ({ store }) => {
    const error = await rejectsWith(store.readInto("a", 5, await read(10)), "StoreShortRead");
    assert.deepEqual([error.found, error.expected, error.where.offset], ["4 bytes", "10 bytes", 5]);
    await rejectsWith(store.readInto("a", 50, await read(10)), "StoreShortRead");
  });
});

test("a server that ignores ranges or sends another one is not believed", async () => {
  await withAnswers([answer(200, "0123456789"), answer(200, "0123"), range("0123", 7, 90)], async ({ store }) => {
    await rejectsWith(store.readInto("a", 3, await read(4)), "StoreFailed");
    await rejectsWith(store.readInto("a", 3, await read(4)), "StoreFailed");
    await rejectsWith(store.readInto("a", 3, await read(4)), "StoreFailed");
  });
});

test("a connection that is refused, silent or cut counts as unavailable", async () => {
  await withAnswers([drop], ({ store }) => rejectsWith(store.head("a"), "StoreUnavailable").then(() => undefined));
  await withAnswers([silence], ({ store }) => rejectsWith(store.head("a"), "StoreUnavailable").then(() => undefined), {
    idleMs: 150,
  });
  const endpoint = "http://127.0.0.1:1";
  await withAnswers([], ({ store }) => rejectsWith(store.head("a"), "StoreUnavailable").then(() => undefined), {
    endpoint,
  });
});

test("an answer that is not XML is a passing failure, wherever it comes from", async () => {
  const page = answer(502, "<html><body>Bad Gateway", { "content-type": "text/html" });
  const cutShort = answer(200, '<?xml version="1.0"?><ListBucketResult><Contents><Key>yard/a</K');
  await withAnswers([page, page, page, cutShort, cutShort, cutShort], async ({ store }) => {
    await rejectsWith(listAll(store), "StoreUnavailable");
    await rejectsWith(listAll(store), "StoreUnavailable");
  });
});

test("an abort ends a request with the caller's reason", async () => {
  const controller = new AbortController();
  const hang: Answer = (_request, response) => {
    response.writeHead(206, { "content-length": "10", "content-range": "bytes 0-9/10" });
    response.write("01234");
    setTimeout(() => controller.abort(new Error("enough")), 20);
  };
  await withAnswers([hang], async ({ store }) => {
    await assert.rejects(store.readInto("a", 0, await read(10), { signal: controller.signal }), /enough/);
    await assert.rejects(store.head("a", { signal: controller.signal }), /enough/);
  });
  const second = new AbortController();
  const abortThen: Answer = () => second.abort(new Error("enough of this"));
  await withAnswers([abortThen], async ({ store }) => {
    await assert.rejects(store.head("a", { signal: second.signal }), /enough of this/);
  });
});

test("a create sends its condition and its id, and knows by the id whether it won before", async () => {
  const taken = failure(412, "PreconditionFailed");
  const mine = (id: string) => headed(3, "e1", { "x-amz-meta-mergeyard-write": id });
  const put = answer(200, "", { etag: '"e1"' });
  await withAnswers([put, taken, mine("one"), taken, mine("one"), taken, headed(3, "e1")], async ({ store, seen }) => {
    const bytes = Buffer.from("abc");
    assert.deepEqual(await store.create("a", bytes, { writeId: "one" }), { created: true, etag: "e1" });
    assert.equal(seen[0]?.headers["if-none-match"], "*");
    assert.equal(seen[0]?.headers["x-amz-meta-mergeyard-write"], "one");
    assert.equal(seen[0]?.path.split("?")[0], "/bucket/yard/a");
    assert.deepEqual(await store.create("a", bytes, { writeId: "one" }), { created: true, etag: "e1" });
    assert.deepEqual(await store.create("a", bytes, { writeId: "two" }), { created: false, etag: "e1" });
    assert.deepEqual(await store.create("a", bytes), { created: false, etag: "e1" });
  });
});

test("a create whose answer was lost is repeated and known again; a conflict is repeated too", async () => {
  let id = "";
  const lost: Answer = (request, response) => {
    id = String(request.headers["x-amz-meta-mergeyard-write"]);
    response.destroy();
  };
  const known: Answer = (request, response) => headed(3, "e1", { "x-amz-meta-mergeyard-write": id })(request, response);
  const conflict = failure(409, "ConditionalRequestConflict");
  await withAnswers([lost, conflict, failure(412, "PreconditionFailed"), known], async ({ store, seen }) => {
    const result = await createRetryStore(store, policy).create("a", Buffer.from("abc"));
    assert.deepEqual(result, { created: true, etag: "e1" });
    assert.equal(seen.length, 4);
    assert.ok(id.length > 20);
  });
});

test("a replace sends the ETag as the server's dialect wants it", async () => {
  const put = answer(200, "", { etag: '"e2"' });
  for (const [dialect, header] of [
    [S3_DIALECTS.radosgw, "e1"],
    [{ ...S3_DIALECTS.aws, forcePathStyle: true }, '"e1"'],
  ] as const) {
    const answers = [put, failure(412, "PreconditionFailed"), headed(1, "e3"), failure(404, "NoSuchKey"), answer(404)];
    await withAnswers(
      [...answers, answer(200)],
      async ({ store, seen }) => {
        assert.deepEqual(await store.replace("a", Buffer.from("x"), "e1"), { replaced: true, etag: "e2" });
        assert.equal(seen[0]?.headers["if-match"], header);
        assert.deepEqual(await store.replace("a", Buffer.from("x"), "e1"), { replaced: false, etag: "e3" });
        assert.deepEqual(await store.replace("a", Buffer.from("x"), "e1\r\nx-bad: 1"), { replaced: false, etag: "" });
      },
      { dialect },
    );
  }
});

test("a listing follows its pages, leaves out folder markers, and is refused when it is out of order", async () => {
  const entry = (key: string, size = 1) =>
    `<Contents><Key>yard/${key}</Key><Size>${size}</Size><ETag>"e"</ETag></Contents>`;
  const page = (entries: string, next = "") => {
    const more = next === "" ? "<IsTruncated>false</IsTruncated>" : `<IsTruncated>true</IsTruncated>${next}`;
    return answer(200, `<?xml version="1.0"?><ListBucketResult>${more}${entries}</ListBucketResult>`);
  };
  const token = "<NextContinuationToken>t1</NextContinuationToken>";
  const slow = failure(503, "SlowDown");
  const first = page(entry("a") + entry("dir/", 0) + entry("dir/b"), token);
  await withAnswers([first, slow, slow, page(entry("e&amp;f"))], async ({ store, seen }) => {
    assert.deepEqual(
      (await listAll(store)).map((info) => info.key),
      ["a", "dir/b", "e&f"],
    );
    assert.match(seen[3]?.path ?? "", /continuation-token=t1/);
  });
  await withAnswers([page(entry("b") + entry("a"))], ({ store }) => fails(listAll(store), "StoreFailed"));
  await withAnswers([page(entry("b"), " ")], ({ store }) => fails(listAll(store), "StoreFailed"));
  await withAnswers([page(entry("a//b"))], ({ store }) => fails(listAll(store), "StoreKeyInvalid"));
});

test("HEAD does not tell a missing object from a missing bucket, so the store asks, once", async () => {
  await withAnswers([answer(404), answer(404)], ({ store }) => fails(store.head("a"), "StoreBucketMissing"));
  await withAnswers([answer(404), answer(200), answer(404)], async ({ store, seen }) => {
    assert.equal(await store.head("a"), undefined);
    assert.equal(await store.head("a"), undefined);
    assert.equal(seen.length, 3);
  });
  await withAnswers([answer(404), answer(403)], async ({ store }) => assert.equal(await store.head("a"), undefined));
});

const regions: Region[] = [{ offset: 0, bytes: 9 * MIB }];
const begun = answer(200, "<InitiateMultipartUploadResult><UploadId>u1</UploadId></InitiateMultipartUploadResult>");
const partEtag = createHash("md5").update("part").digest("hex");
const wholeEtag = `${createHash("md5").update(Buffer.from(partEtag, "hex")).digest("hex")}-1`;

test("a part is sent again after a failure, the same bytes under the same number", async () => {
  const part = answer(200, "", { etag: `"${partEtag}"` });
  await withAnswers([begun, failure(503, "SlowDown"), drop, part], async ({ store, seen }) => {
    const ticket = await store.beginWrite("large", 9 * MIB, regions);
    const writer = await store.openRegion(ticket, 0);
    await writer.write(patterned(9 * MIB));
    assert.deepEqual(await writer.close(), { index: 0, parts: [{ number: 1, etag: partEtag }] });
    const [first, , third] = seen.slice(1);
    assert.match(first?.path ?? "", /partNumber=1&uploadId=u1/);
    assert.equal(third?.path, first?.path);
    assert.equal(third?.body, first?.body);
    assert.equal(Buffer.compare(Buffer.from(third?.body ?? "", "latin1"), patterned(9 * MIB)), 0);
  });
});

test("a part that cannot be sent fails the region, not the process", async () => {
  await withAnswers([begun, failure(403, "AccessDenied")], async ({ store }) => {
    const ticket = await store.beginWrite("large", 9 * MIB, regions);
    const writer = await store.openRegion(ticket, 0);
    await writer.write(patterned(9 * MIB));
    await rejectsWith(writer.close(), "StoreAccessDenied");
  });
  const [bytes, two] = [20 * MIB, [{ offset: 0, bytes: 20 * MIB }]];
  await withAnswers([begun, failure(403, "AccessDenied")], async ({ store, left }) => {
    const writer = await store.openRegion(await store.beginWrite("large", bytes, two), 0);
    await writer.write(patterned(11 * MIB));
    // The first part fails while nobody waits for it.
    for (let wait = 0; wait < 100 && left() > 0; wait++) await new Promise((resolve) => setTimeout(resolve, 10));
    await new Promise((resolve) => setTimeout(resolve, 50));
    await writer.write(patterned(9 * MIB));
    await rejectsWith(writer.close(), "StoreAccessDenied");
  });
});

test("completing an upload notices a failure inside a good answer, and its own success at the second try", async () => {
  const inside = answer(200, "<?xml version='1.0'?><Error><Code>InternalError</Code></Error>");
  const receipts = [{ index: 0, parts: [{ number: 1, etag: partEtag }] }];
  const over = failure(404, "NoSuchUpload");
  const ours = headed(9 * MIB, wholeEtag);
  await withAnswers([begun, inside, over, ours, ours], async ({ store, left }) => {
    const ticket = await store.beginWrite("large", 9 * MIB, regions);
    await rejectsWith(store.finishWrite(ticket, receipts), "StoreUnavailable");
    const info = await store.finishWrite(ticket, receipts);
    assert.deepEqual([info.bytes, info.etag], [9 * MIB, wholeEtag]);
    assert.equal(left(), 0);
  });
  await withAnswers([begun, over, headed(9 * MIB, "other-1")], async ({ store }) => {
    const ticket = await store.beginWrite("large", 9 * MIB, regions);
    await rejectsWith(store.finishWrite(ticket, receipts), "StoreTicketInvalid");
  });
});

test("an object beyond what parts can hold is refused before a request", async () => {
  await withAnswers([], async ({ store, seen }) => {
    const bytes = 2 ** 45;
    await rejectsWith(store.beginWrite("large", bytes, [{ offset: 0, bytes }]), "StoreObjectTooLarge");
    assert.equal(seen.length, 0);
  });
});

test("a copy in parts whose source changes is given up, and its upload aborted", async () => {
  const dialect = { ...S3_DIALECTS.radosgw, copyBytesMax: 5 * MIB };
  const changed = failure(412, "PreconditionFailed");
  await withAnswers(
    [headed(6 * MIB, "e1"), begun, changed, answer(204)],
    async ({ store, seen }) => {
      await rejectsWith(store.copy("from here", "to"), "StoreObjectChanged");
      assert.equal(seen[2]?.headers["x-amz-copy-source"], "bucket/yard/from%20here");
      assert.equal(seen[2]?.headers["x-amz-copy-source-if-match"], "e1");
      assert.deepEqual([seen[3]?.method, seen.length], ["DELETE", 4]);
    },
    { dialect },
  );
});

/** Runs a test in another environment of AWS settings, none of which reach the network. */
async function withAwsSettings(settings: Record<string, string>, body: () => Promise<void>): Promise<void> {
  const before = { ...process.env };
  for (const name of Object.keys(process.env)) if (name.startsWith("AWS_")) delete process.env[name];
  const isolated = { AWS_EC2_METADATA_DISABLED: "true", AWS_CONFIG_FILE: "/dev/null" };
  Object.assign(process.env, isolated, { AWS_SHARED_CREDENTIALS_FILE: "/dev/null" }, settings);
  try {
    await body();
  } finally {
    for (const name of Object.keys(process.env)) if (name.startsWith("AWS_")) delete process.env[name];
    Object.assign(process.env, before);
  }
}

test("missing credentials are named before any request", () =>
  withAwsSettings({}, () =>
    withAnswers(
      [],
      async ({ store, seen }) => {
        await rejectsWith(store.head("a"), "StoreCredentialsInvalid");
        assert.equal(seen.length, 0);
      },
      { credentials: undefined },
    ),
  ));

test("a region that nobody says is asked for before any request", () =>
  withAwsSettings({ AWS_ACCESS_KEY_ID: "scripted", AWS_SECRET_ACCESS_KEY: "scripted" }, async () => {
    const error = await rejectsWith(openStore("s3://bucket/a", {}).head("b"), "StoreRegionMissing");
    assert.deepEqual([error.retryable, error.where], [false, { store: "s3://bucket/a", file: "b" }]);
  }));

test("a place in S3 opens at the endpoint that its environment names, and a foreign server's writes are checked", () =>
  withAwsSettings({ AWS_ACCESS_KEY_ID: "scripted", AWS_SECRET_ACCESS_KEY: "scripted" }, async () => {
    const put = answer(200, "", { etag: '"e1"' });
    await withAnswers([put, put], async ({ endpoint, seen }) => {
      const store = openStore("s3://bucket/a/yard/", { MERGEYARD_S3_ENDPOINT: endpoint });
      assert.equal(store.uri, "s3://bucket/a/yard");
      assert.equal(seen.length, 0, "opening asks nothing");
      await rejectsWith(store.create("claim", Buffer.from("abc")), "StoreConditionIgnored");
      assert.deepEqual(
        seen.map((request) => request.path.split("?")[0]),
        new Array(2).fill("/bucket/a/yard/claim"),
      );
    });
    await withAnswers([answer(200, "abc", { etag: '"e1"' })], async ({ endpoint }) => {
      const found = await openStore("s3://bucket", { AWS_ENDPOINT_URL_S3: endpoint }).get("a", 3);
      assert.equal(textOf(found?.bytes ?? new Uint8Array()), "abc");
    });
    for (const env of [{ MERGEYARD_S3_ENDPOINT: "localhost:80" }, { MERGEYARD_S3_DIALECT: "none" }]) {
      assert.throws(() => openStore("s3://bucket/a", env), { code: "StoreUriInvalid" });
    }
    assert.throws(() => openStore("s3://bucket/../a", {}), { code: "StoreKeyInvalid" });
  }));

async function fails(promise: Promise<unknown>, code: ErrorCode): Promise<void> {
  await rejectsWith(promise, code);
}
