// Digests in documents. Apart from digest.ts, which worker threads start with: they validate nothing, and zod would be
// most of what they load.
import * as z from "zod";

export const digestSchema = z.string().regex(/^sha256:[0-9a-f]{64}$/, "sha256: and 64 hex digits");
