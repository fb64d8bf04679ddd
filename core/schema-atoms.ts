// The smallest schemas, which those of records, plans and steps are made of.
import * as z from "zod";
import type { Json } from "./json.ts";

/** Any JSON value. */
export const jsonSchema: z.ZodType<Json> = z.json();

/** A number of things, bytes included. */
export const count = z.int().nonnegative();

/** Of a store, a yard or a folder: what is there is for whoever opens it to say. */
export const uri = z.string().min(1);

/** A file: where it lies, and its key there. */
export const storedFile = z.strictObject({ store: uri, key: z.string().min(1) });
