// Shows how much of an upload is sent, and takes files that are dropped. Without it the form works too.
function mount(form) {
  const progress = document.getElementById("progress");
  const problem = document.getElementById("problem");
  const files = form.elements.files;

  const refuse = (text) => {
    problem.textContent = text;
    problem.hidden = false;
    progress.hidden = true;
    form.querySelector("button").disabled = false;
  };

  const send = () => {
    problem.hidden = true;
    // A server that refuses in the midst of it is not heard: browsers only tell that the connection ended.
    const bytes = [...files.files].reduce((sum, file) => sum + file.size, 0);
    if (bytes > Number(form.dataset.largest)) return refuse(form.dataset.tooLarge);
    const request = new XMLHttpRequest();
    request.open("POST", form.action);
    request.upload.addEventListener("progress", (sent) => {
      progress.hidden = false;
      if (sent.lengthComputable) progress.value = sent.loaded / sent.total;
    });
    request.addEventListener("load", () => {
      if (request.responseURL !== form.action) return location.assign(request.responseURL);
      const page = new DOMParser().parseFromString(request.responseText, "text/html");
      document.getElementById("main").replaceWith(page.getElementById("main"));
      document.getElementById("main").focus();
      const again = document.getElementById("upload");
      if (again) mount(again);
      if (document.querySelector("[data-live]")) {
        document.head.append(Object.assign(document.createElement("script"), { src: "/static/live.js" }));
      }
    });
    request.addEventListener("error", () => refuse(form.dataset.cut));
    request.send(new FormData(form));
    form.querySelector("button").disabled = true;
  };

  // A form that is sent "at once" needs no button: what is chosen last sends it.
  const begin = () => "atOnce" in form.dataset && files.files.length && form.checkValidity() && form.requestSubmit();

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  form.addEventListener("change", begin);
  form.addEventListener("dragover", (event) => event.preventDefault());
  form.addEventListener("drop", (event) => {
    event.preventDefault();
    files.files = event.dataTransfer.files;
    begin();
  });
}

mount(document.getElementById("upload"));
