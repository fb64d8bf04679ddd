// Digests: SHA-256 everywhere, written `sha256:<hex>`.
//
// A tensor's digest covers its bytes; a plain file's digest covers its bytes. A tensor file's digest covers the digests
// of its parts (header first, then each tensor in offset order), so every byte is hashed once, tensors can be hashed in
// parallel, and a changed tensor names itself. See docs/format.md and docs/adr/0002-digests.md.
import { createHash } from "node:crypto";
import { isJsonObject } from "../json.ts";

/** `sha256:<64 hex digits>`. */
export type Digest = string;

/** Digest of bytes or of a string's UTF-8 form. */
export function digestBytes(bytes: Uint8Array | string): Digest {
  return `sha256:${createHash("sha256").update(bytes).digest("hex")}`;
}

/** A digest that is fed piece by piece. */
export type Hasher = { update(bytes: Uint8Array): void; digest(): Digest };

/** A streaming digest; `digest` may be called once. */
export function createHasher(): Hasher {
  const hash = createHash("sha256");
  return { update: (bytes) => void hash.update(bytes), digest: () => `sha256:${hash.digest("hex")}` };
}

/** Digests of the contiguous parts of a stream, fed piece by piece. */
export type PartHasher = { update(piece: Uint8Array): void; digests(): readonly Digest[] };

/** A hasher of contiguous parts of the given sizes; a part of 0 bytes has the digest of nothing. */
export function createPartHasher(partBytes: readonly number[]): PartHasher {
  const digests: Digest[] = [];
  let hasher = createHasher();
  let left = partBytes[0] ?? 0;
  const closeFull = (): void => {
    while (left === 0 && digests.length < partBytes.length) {
      digests.push(hasher.digest());
      hasher = createHasher();
      left = partBytes[digests.length] ?? 0;
    }
  };
  closeFull();
  return {
    update(piece) {
      for (let done = 0; done < piece.length; ) {
        const bytes = Math.min(left, piece.length - done);
        hasher.update(piece.subarray(done, done + bytes));
        done += bytes;
        left -= bytes;
        closeFull();
      }
    },
    digests() {
      return digests;
    },
  };
}

/** Digest of a tensor file from the digests of its header and of its tensors in offset order. */
export function digestTensorFile(headerDigest: Digest, tensorDigests: readonly Digest[]): Digest {
  return digestBytes([headerDigest, ...tensorDigests].map((digest) => `${digest}\n`).join(""));
}

/** Digest of a JSON value in canonical form: object keys sorted, no spaces, numbers as JSON.stringify writes them. */
export function digestJson(value: unknown): Digest {
  return digestBytes(canonicalJson(value));
}

/** JSON with sorted object keys and no spaces; undefined fields are left out. */
export function canonicalJson(value: unknown): string {
  return JSON.stringify(value, (_key, item: unknown) =>
    isJsonObject(item)
      ? Object.fromEntries(Object.entries(item).sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0)))
      : item,
  );
}
