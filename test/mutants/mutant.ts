/** A text of the compiled program and what stands there instead; it has to be there exactly once. */
export interface Edit {
  /** Below the package: `dist/src/...` or `migrations/...`. */
  readonly file: string;
  readonly from: string;
  readonly to: string;
}

/** The same for a function of the database as all migrations together have left it. */
export interface FunctionEdit {
  readonly name: string;
  readonly from: string;
  readonly to: string;
}

/** A named way to break a guarantee, and the named test that has to notice. */
export interface Mutant {
  readonly name: string;
  readonly edits: readonly Edit[];
  readonly functionEdit?: FunctionEdit;
  /** Below `test/` and without its ending: `server/mutants_watch` for `test/server/mutants_watch.test.ts`. */
  readonly testFile: string;
  readonly caughtBy: string;
}

export const edit = (file: string, from: string, to: string): Edit => ({ file, from, to });
