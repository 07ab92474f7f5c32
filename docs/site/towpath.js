// Browsers start no worker for a page that was opened as a file. There the search runs in a hidden frame instead.
if (location.protocol === "file:") {
  window.IFrameWorker = window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      const inside = frame.contentWindow;
      window.addEventListener("message", (event) => {
        if (event.source === inside) this.dispatchEvent(new MessageEvent("message", { data: event.data }));
      });
      this.postMessage = (data) =>
        this.ready.then(() => inside.dispatchEvent(new MessageEvent("message", { data: structuredClone(data) })));
      inside.document.write(
        "<script>postMessage = (data) => parent.postMessage(data, '*')<\/script>" + `<script src="${url}"><\/script>`,
      );
      this.ready = new Promise((done) => frame.addEventListener("load", done));
      inside.document.close();
    }
  };
}
