;;; eglot.el --- Emacs as a client: a request by hand, and completion-at-point through the fallback -*- lexical-binding: t -*-

(setq package-directory-list '("/usr/share/emacs/site-lisp/elpa")
      make-backup-files nil
      create-lockfiles nil)
(package-initialize)
(require 'eglot)

(defvar test-state nil "What treeline/status said last.")
(cl-defmethod eglot-handle-notification (_server (_method (eql treeline/status)) &key state &allow-other-keys)
  (setq test-state state))

(defun test-check (condition &rest what)
  "Fail with WHAT unless CONDITION holds."
  (unless condition
    (message "FAILED: %S" what)
    (kill-emacs 1)))

(defun test-wait (what condition)
  "Wait until CONDITION returns something, no longer than two minutes; return it. WHAT says for what."
  (let ((limit (+ (float-time) 120)) found)
    (while (and (not (setq found (funcall condition))) (< (float-time) limit))
      (accept-process-output nil 0.05))
    (test-check found 'waited-in-vain-for what test-state)
    found))

(let ((command (append (json-parse-string (getenv "TREELINE_TEST_SERVER")) nil)))
  (add-to-list 'eglot-server-programs
               `(python-mode . (,@command :initializationOptions (:completionFallback t)))))

(with-temp-file "eglot.py"
  (insert "def area(width, height):\n    x = \"Ä𝔘\"; return width * height\n\n\n"
          "def größe(width, height):\n    x = \"Ä𝔘\"; return "))
(find-file "eglot.py")
(goto-char (point-max))
(apply #'eglot--connect (eglot--guess-contact))
(test-wait "didOpen" (lambda () (eglot-managed-p)))
(test-wait "the engine" (lambda () (equal test-state "ready")))

;; A request by hand. Each answer is what would be inserted here, less what stands here already.
(defvar test-answers nil)
(let* ((params (append (eglot--TextDocumentPositionParams) '(:context (:triggerKind 1))))
       (answer (jsonrpc-request (eglot-current-server) :textDocument/inlineCompletion params :timeout 60)))
  (test-check (> (length (plist-get answer :items)) 0) answer)
  (dolist (item (append (plist-get answer :items) nil))
    (let* ((range (plist-get item :range))
           (start (eglot--lsp-position-to-point (plist-get range :start)))
           (end (plist-get range :end))
           (typed (buffer-substring start (point))))
      (test-check (equal (plist-get end :character) (1+ (- (point) (line-beginning-position)))) 'utf-16 end)
      (test-check (string-prefix-p typed (plist-get item :insertText)) typed item)
      (push (substring (plist-get item :insertText) (length typed)) test-answers))))

;; The menu of completion-at-point: choose its first entry, as a front end does when a person presses a key.
(setq completion-in-region-function
      (lambda (start end collection &optional predicate)
        (let ((chosen (car (all-completions (buffer-substring start end) collection predicate))))
          (delete-region start end)
          (insert chosen)
          (funcall (plist-get completion-extra-properties :exit-function) chosen 'finished)
          t)))
(let ((before (buffer-string)))
  (completion-at-point)
  (test-check (string-prefix-p before (buffer-string)) (buffer-string))
  (test-check (member (substring (buffer-string) (length before)) test-answers) (buffer-string) test-answers))

(set-buffer-modified-p nil)
(eglot-shutdown (eglot-current-server))
(message "PASSED")
(kill-emacs 0)
