// Where signatures come from: a file of this machine, and AWS KMS as its HTTP interface is documented.
import assert from "node:assert/strict";
import { createHash, generateKeyPairSync, sign, verify } from "node:crypto";
import { mkdir, mkdtemp, readFile, rm, stat, writeFile } from "node:fs/promises";
import http from "node:http";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { verifySignature } from "../../core/artifact/public-key.ts";
import { createKeyFiles } from "../../signing/file-key.ts";
import { openKey, openSigner } from "../../signing/open-signer.ts";
import { listen } from "../listen.ts";

const folder = await mkdtemp(path.join(tmpdir(), "signing-"));
after(() => rm(folder, { recursive: true }));
const { signal } = new AbortController();
const MESSAGE = Buffer.from("a message");

test("a pair is made once, its private half for the owner alone, and signs", async () => {
  const file = path.join(folder, "key.pem");
  const { id } = await createKeyFiles(file);
  assert.equal((await stat(file)).mode & 0o777, 0o600);
  const signer = await openSigner({ MERGEYARD_SIGNING_KEY: file });
  assert.equal(signer?.keyId, id);
  const { publicKey } = await openKey(file, {});
  assert.ok(verifySignature(publicKey, MESSAGE, (await signer?.sign(MESSAGE, signal)) ?? new Uint8Array()));
  const before = await readFile(file, "utf8");
  await assert.rejects(createKeyFiles(file), { code: "SigningKeyPlace" });
  assert.equal(await readFile(file, "utf8"), before);
  await rm(file);
  await assert.rejects(createKeyFiles(file), { code: "SigningKeyPlace" }, "half of another pair is there");
  await assert.rejects(stat(file), "no half of a pair is left");
});

test("no private key is made inside a yard", async () => {
  const yard = path.join(folder, "yard");
  await mkdir(path.join(yard, "deep/er"), { recursive: true });
  await writeFile(path.join(yard, "yard.json"), '{"yard": 1}');
  await assert.rejects(createKeyFiles(path.join(yard, "deep/er/key.pem")), { code: "SigningKeyPlace" });
});

test("without a key nothing signs; a key that is none is refused", async () => {
  assert.equal(await openSigner({}), undefined);
  const file = path.join(folder, "words");
  await writeFile(file, "words");
  const rsa = path.join(folder, "rsa.pem");
  await writeFile(
    rsa,
    generateKeyPairSync("rsa", { modulusLength: 2048 }).privateKey.export({ type: "pkcs8", format: "pem" }),
  );
  const half = path.join(folder, "half.pem");
  await writeFile(half, pair.publicKey.export({ type: "spki", format: "pem" }));
  const cases = [
    [file, "no PEM block"],
    [rsa, "a key of kind rsa "],
    [half, "-----BEGIN PUBLIC KEY-----"],
    [path.join(folder, "absent"), "no file that can be read"],
  ];
  for (const [place, found] of cases) {
    await assert.rejects(openSigner({ MERGEYARD_SIGNING_KEY: place }), { code: "SigningKeyInvalid", found });
  }
});

const pair = generateKeyPairSync("ec", { namedCurve: "prime256v1" });
const KEY_ARN = "arn:aws:kms:eu-west-1:111122223333:key/signing";

/** A server that answers as KMS does; `fail` replaces the answer by an error. */
async function playKms() {
  const asked: { target: string; input: Record<string, string> }[] = [];
  const state: { fail: { status: number; type: string } | undefined; key: Buffer } = {
    fail: undefined,
    key: pair.publicKey.export({ type: "spki", format: "der" }),
  };
  const server = http.createServer(async (request, response) => {
    let text = "";
    for await (const part of request) text += part;
    const input = JSON.parse(text);
    const target = String(request.headers["x-amz-target"]);
    asked.push({ target, input });
    const answer = (status: number, body: object) =>
      response.writeHead(status, { "content-type": "application/x-amz-json-1.1" }).end(JSON.stringify(body));
    if (state.fail !== undefined) return answer(state.fail.status, { __type: state.fail.type, message: "no" });
    if (input.KeyId !== KEY_ARN) return answer(400, { __type: "NotFoundException", message: "no such key" });
    if (target === "TrentService.GetPublicKey") return answer(200, { PublicKey: state.key.toString("base64") });
    assert.deepEqual([input.MessageType, input.SigningAlgorithm], ["DIGEST", "ECDSA_SHA_256"]);
    assert.equal(input.Message, createHash("sha256").update(MESSAGE).digest("base64"));
    return answer(200, { Signature: sign("sha256", MESSAGE, pair.privateKey).toString("base64") });
  });
  const endpoint = await listen(server);
  process.env.AWS_ACCESS_KEY_ID ??= "test";
  process.env.AWS_SECRET_ACCESS_KEY ??= "test";
  process.env.AWS_REGION ??= "eu-west-1";
  return { asked, state, env: { AWS_ENDPOINT_URL_KMS: endpoint, MERGEYARD_SIGNING_KEY: `awskms:///${KEY_ARN}` } };
}

test("a key of KMS signs the digest of the message, and never leaves the service", async () => {
  const { env, asked } = await playKms();
  const signer = await openSigner(env);
  const signature = (await signer?.sign(MESSAGE, signal)) ?? new Uint8Array();
  assert.ok(verify("sha256", MESSAGE, pair.publicKey, signature));
  assert.deepEqual(
    asked.map(({ target }) => target),
    ["TrentService.GetPublicKey", "TrentService.Sign"],
  );
});

test("a key named by its ARN is asked for in its own region", async (context) => {
  const { env } = await playKms();
  const region = process.env.AWS_REGION;
  context.after(() => Object.assign(process.env, { AWS_REGION: region }));
  delete process.env.AWS_REGION;
  assert.ok((await openSigner(env))?.keyId);
});

test("what KMS refuses is told apart from what may pass", async () => {
  const { env, state } = await playKms();
  const signer = await openSigner(env);
  const cases = [
    { status: 400, type: "AccessDeniedException", code: "SigningDenied" },
    { status: 400, type: "ExpiredTokenException", code: "SigningDenied" },
    { status: 400, type: "DisabledException", code: "SigningKeyInvalid" },
    { status: 400, type: "ThrottlingException", code: "SigningUnavailable" },
    { status: 500, type: "KMSInternalException", code: "SigningUnavailable" },
  ];
  for (const { status, type, code } of cases) {
    state.fail = { status, type };
    await assert.rejects(Promise.resolve(signer?.sign(MESSAGE, signal)), { code });
  }
  state.fail = undefined;
  const wrong = { ...env, MERGEYARD_SIGNING_KEY: "awskms:///alias/other" };
  await assert.rejects(openSigner(wrong), { code: "SigningKeyInvalid" });
  state.key = generateKeyPairSync("rsa", { modulusLength: 2048 }).publicKey.export({ type: "spki", format: "der" });
  await assert.rejects(openSigner(env), { code: "SigningKeyInvalid" });
});
