/** A generated value in both of its forms. `…Ok` says that any decoder takes it, so that an error is about its content. */
export interface Sample {
  readonly wire: Buffer;
  readonly json: string;
  readonly wireOk: boolean;
  readonly jsonOk: boolean;
}

/** Bytes that an input may still take, roughly. */
export interface Budget {
  left: number;
}

export function joined(samples: readonly Sample[]): Sample {
  return {
    wire: Buffer.concat(samples.map(({ wire }) => wire)),
    json: samples.map(({ json }) => json).join(),
    wireOk: samples.every(({ wireOk }) => wireOk),
    jsonOk: samples.every(({ jsonOk }) => jsonOk),
  };
}
