"""The roles of a training as Ray actors. Nothing else imports ray."""
