/** A lone surrogate has no UTF-8 form, and the percent encoding of `grpc-message` throws on it. */
export function printable(text: string): string {
  return text.replace(/\p{Surrogate}/gu, '\ufffd');
}

/** Shortens a text for people. */
export function truncate(text: string, chars: number): string {
  return text.length <= chars ? text : printable(text.slice(0, chars - 1)) + '…';
}
