// Shows how much of an upload is sent. Without it the form works too.
const form = document.getElementById("upload");
const progress = document.getElementById("progress");
const problem = document.getElementById("problem");

const refuse = (text) => {
  problem.textContent = text;
  problem.hidden = false;
  progress.hidden = true;
  form.querySelector("button").disabled = false;
};

form.addEventListener("submit", (event) => {
  event.preventDefault();
  problem.hidden = true;
  // A server that refuses in the midst of it is not heard: browsers only tell that the connection ended.
  const bytes = [...form.elements.files.files].reduce((sum, file) => sum + file.size, 0);
  if (bytes > Number(form.dataset.largest)) return refuse(form.dataset.tooLarge);
  const request = new XMLHttpRequest();
  request.open("POST", form.action);
  request.upload.addEventListener("progress", (sent) => {
    progress.hidden = false;
    if (sent.lengthComputable) progress.value = sent.loaded / sent.total;
  });
  request.addEventListener("load", () => {
    const page = new DOMParser().parseFromString(request.responseText, "text/html");
    document.getElementById("main").replaceWith(page.getElementById("main"));
    document.getElementById("main").focus();
    if (document.querySelector("[data-live]")) {
      document.head.append(Object.assign(document.createElement("script"), { src: "/static/live.js" }));
    }
  });
  request.addEventListener("error", () => refuse(form.dataset.cut));
  request.send(new FormData(form));
  form.querySelector("button").disabled = true;
});
