// The signature of a version: an in-toto statement about its manifest, in a DSSE envelope, kept beside the manifest as
// `manifest.intoto.jsonl`, one envelope a line. The manifest and the version's name do not depend on it, so that one
// version may be signed by several keys, or later. docs/format.md is the normative text.
// Sources: in-toto attestation framework v1 (Statement, Bundle), DSSE v1, SLSA provenance v1.
import * as z from "zod";
import { toDotPath } from "zod/v4/core";
import { type ErrorPlace, MergeyardError } from "../error.ts";
import { parseJson } from "../json.ts";
import { ARTIFACT_LIMITS } from "../limits.ts";
import { canonicalJson, type Digest } from "./digest.ts";
import { MANIFEST_FILE, type Manifest, manifestDigest } from "./manifest.ts";
import { type PublicKey, verifySignature } from "./public-key.ts";

const PAYLOAD_TYPE = "application/vnd.in-toto+json";
const STATEMENT_TYPE = "https://in-toto.io/Statement/v1";
const PREDICATE_TYPE = "https://slsa.dev/provenance/v1";
const BUILD_TYPE = "mergeyard:merge/v1";
const BUILDER = "mergeyard:publish";

/** Signs for a yard; the private key stays inside. */
export type Signer = {
  /** `PublicKey.id` of the key. */
  readonly keyId: Digest;
  /** ed25519: 64 bytes; ECDSA on P-256: DER over SHA-256. Throws SigningDenied, SigningUnavailable. */
  sign(message: Uint8Array, signal: AbortSignal): Promise<Uint8Array>;
};

const base64 = z.base64();
const envelopeSchema = z.looseObject({
  payload: base64,
  payloadType: z.string(),
  signatures: z.array(z.looseObject({ keyid: z.string().optional(), sig: base64 })).min(1),
});
export type Envelope = z.infer<typeof envelopeSchema>;

const digestSetSchema = z.looseObject({ sha256: z.string().regex(/^[0-9a-f]{64}$/) });
const descriptorSchema = z.looseObject({
  name: z.string().optional(),
  uri: z.string().optional(),
  digest: digestSetSchema.optional(),
});
/** Of a statement what is relied on; in-toto asks readers to pass over fields that they do not know. */
const statementSchema = z.looseObject({
  _type: z.literal(STATEMENT_TYPE),
  subject: z.array(z.looseObject({ name: z.string(), digest: z.looseObject({ sha256: z.string().optional() }) })),
  predicateType: z.literal(PREDICATE_TYPE),
  predicate: z.looseObject({
    buildDefinition: z.looseObject({ resolvedDependencies: z.array(descriptorSchema).default([]) }),
  }),
});
export type Statement = z.infer<typeof statementSchema>;

/** An input as the statement names it. */
export type StatementInput = {
  readonly model: string;
  readonly digest: Digest | null;
  /** Its folder in the yard, `artifacts/base/0123456789abcdef/`; undefined when it lies elsewhere. */
  readonly place: string | undefined;
};

export type StatementParts = {
  readonly manifest: Manifest;
  /** Undefined where a folder was published, and not a run's result. */
  readonly run: string | undefined;
  readonly inputs: readonly StatementInput[];
  /** Digests of the workers' container images; none where workers were no containers. */
  readonly images: readonly Digest[];
};

const IN_YARD = "mergeyard:";

/** The statement's bytes: what the version was made from, by what, and in which run. It holds no time. */
export function encodeStatement({ manifest, run, inputs, images }: StatementParts): Uint8Array {
  const { model, engine, method, recipe } = manifest;
  const dependencies = inputs.map((input) => ({
    name: input.model,
    ...(input.place === undefined ? {} : { uri: `${IN_YARD}${input.place}` }),
    ...(input.digest === null ? { annotations: { digest: "none" } } : { digest: digestSet(input.digest) }),
  }));
  const statement = {
    _type: STATEMENT_TYPE,
    subject: [{ name: MANIFEST_FILE, digest: digestSet(manifestDigest(manifest)) }],
    predicateType: PREDICATE_TYPE,
    predicate: {
      buildDefinition: {
        buildType: BUILD_TYPE,
        externalParameters: { model, method, recipe: { text: recipe.text, digest: digestSet(recipe.digest) } },
        resolvedDependencies: dependencies,
      },
      runDetails: {
        builder: {
          id: BUILDER,
          version: { mergeyard: engine },
          builderDependencies: images.map((image) => ({ name: "worker image", digest: digestSet(image) })),
        },
        ...(run === undefined ? {} : { metadata: { invocationId: run } }),
      },
    },
  };
  return new TextEncoder().encode(canonicalJson(statement));
}

function digestSet(digest: Digest): { readonly sha256: string } {
  return { sha256: digest.replace(/^sha256:/, "") };
}

/** One line of the signature file: the statement, signed. */
export async function signStatement(statement: Uint8Array, signer: Signer, signal: AbortSignal): Promise<string> {
  const sig = await signer.sign(preAuthEncoding(PAYLOAD_TYPE, statement), signal);
  const encode = (bytes: Uint8Array) => Buffer.from(bytes).toString("base64");
  const signatures = [{ keyid: signer.keyId, sig: encode(sig) }];
  return `${canonicalJson({ payload: encode(statement), payloadType: PAYLOAD_TYPE, signatures })}\n`;
}

/** What DSSE signs: `DSSEv1 LENGTH TYPE LENGTH BODY`. */
function preAuthEncoding(type: string, body: Uint8Array): Uint8Array {
  const head = `DSSEv1 ${Buffer.byteLength(type)} ${type} ${body.length} `;
  return Buffer.concat([Buffer.from(head), body]);
}

/** The envelopes of a signature file. Throws SignatureInvalid with the line. */
export function parseEnvelopes(bytes: Uint8Array, where: ErrorPlace): readonly Envelope[] {
  const lines = new TextDecoder()
    .decode(bytes)
    .split("\n")
    .filter((line) => line.trim() !== "");
  if (lines.length > ARTIFACT_LIMITS.signatures) {
    throw invalid(where, `${lines.length} signatures`, `at most ${ARTIFACT_LIMITS.signatures}`);
  }
  return lines.map((line, index) => {
    const parsed = envelopeSchema.safeParse(parseJson(line));
    if (parsed.success) return parsed.data;
    throw invalid(where, parsed.error.issues[0]?.message ?? "no envelope", "a DSSE envelope", index + 1);
  });
}

/** Ids of all keys that the envelopes name; a name alone proves nothing. */
export function namedKeys(envelopes: readonly Envelope[]): readonly string[] {
  const ids = envelopes.flatMap(({ signatures }) => signatures.flatMap(({ keyid }) => keyid ?? []));
  return [...new Set(ids)];
}

export type Verified = { readonly keyId: Digest; readonly statement: Statement };

/**
 * The statement that one of the trusted keys has signed about the manifest of this digest.
 * Throws SignatureMissing (no envelope), SignatureUntrusted (no signature of a trusted key), SignatureWrong (signed,
 * but about another manifest), SignatureInvalid (signed, but no statement of ours).
 */
export function verifyEnvelopes(
  envelopes: readonly Envelope[],
  trusted: readonly PublicKey[],
  manifest: Digest,
  where: ErrorPlace,
): Verified {
  const expected = trusted.map(({ id }) => id).join(", ");
  if (envelopes.length === 0) throw new MergeyardError("SignatureMissing", { where, expected });
  const signed = envelopes.flatMap((envelope) => findSigner(envelope, trusted) ?? []);
  if (signed.length === 0) {
    const found = namedKeys(envelopes).join(", ") || "signatures that name no key";
    throw new MergeyardError("SignatureUntrusted", { where, found, expected });
  }
  const statements = signed.map(({ keyId, body }) => ({ keyId, statement: parseStatement(body, where) }));
  const verified = statements.find(({ statement }) =>
    statement.subject.some(({ name, digest }) => name === MANIFEST_FILE && `sha256:${digest.sha256}` === manifest),
  );
  if (verified !== undefined) return verified;
  const subjects = statements.flatMap(({ statement }) => statement.subject);
  const found = subjects.map(({ name, digest }) => `${name} at sha256:${digest.sha256}`).join(", ");
  throw new MergeyardError("SignatureWrong", { where, found, expected: manifest });
}

/** The first trusted key whose signature is right. The `keyid` of an envelope is a hint and is not relied on. */
function findSigner(
  { payload, payloadType, signatures }: Envelope,
  trusted: readonly PublicKey[],
): { readonly keyId: Digest; readonly body: Uint8Array } | undefined {
  if (payloadType !== PAYLOAD_TYPE) return undefined;
  const body = Buffer.from(payload, "base64");
  const message = preAuthEncoding(payloadType, body);
  const key = trusted.find((candidate) =>
    signatures.some(({ sig }) => verifySignature(candidate, message, Buffer.from(sig, "base64"))),
  );
  return key === undefined ? undefined : { keyId: key.id, body };
}

function parseStatement(body: Uint8Array, where: ErrorPlace): Statement {
  const parsed = statementSchema.safeParse(parseJson(new TextDecoder().decode(body)));
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  throw invalid(where, `${toDotPath(issue?.path ?? [])}: ${issue?.message}`, "a statement of provenance");
}

/** Folders of the yard that the statement says its inputs lay in, each with the digest that the input had. */
export function placesInYard({ predicate }: Statement): readonly { place: string; digest: Digest | undefined }[] {
  return predicate.buildDefinition.resolvedDependencies.flatMap(({ uri, digest }) =>
    uri?.startsWith(IN_YARD)
      ? [{ place: uri.slice(IN_YARD.length), digest: digest === undefined ? undefined : `sha256:${digest.sha256}` }]
      : [],
  );
}

function invalid(where: ErrorPlace, found: string, expected: string, line?: number): MergeyardError {
  return new MergeyardError("SignatureInvalid", { where: { ...where, line }, found, expected });
}
