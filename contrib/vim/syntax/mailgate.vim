" Vim syntax file of mailgate's configuration. Written by `make docs` from the declarations.
if exists("b:current_syntax")
  finish
endif

syntax iskeyword @,48-57,_,.,-

syntax match mailgateUnknown "\%(^\|[{}]\s\)\s*\zs[A-Za-z_][A-Za-z0-9_.-]*"
syntax keyword mailgateDirective announce_size attempt_starttls attempts auth auth_insecure backoff balance
syntax keyword mailgateDirective banner body_spool_limit ca cache case_insensitive cert certificate check
syntax keyword mailgateDirective chunking ciphers command_timeout connect connect_timeout create curves data
syntax keyword mailgateDirective data_block data_timeout debug default_destination default_source
syntax keyword mailgateDirective defer_sender_reject deliver_to destination destination_in disable_commands
syntax keyword mailgateDirective discard early_talker ehlo endpoint entry expand_placeholders expect failover
syntax keyword mailgateDirective failures fallback_delay final_dot from full_match given greeting
syntax keyword mailgateDirective greeting_delay handshake_timeout header health helo helo_response hide
syntax keyword mailgateDirective hold_timeout hostname idle_timeout import ip key lease_timeout listener
syntax keyword mailgateDirective local_domains mail_from max_age max_command_length max_connections
syntax keyword mailgateDirective max_connections_per_endpoint max_connections_per_ip max_errors
syntax keyword mailgateDirective max_header_count max_header_size max_idle max_message_size max_messages
syntax keyword mailgateDirective max_received max_recipients max_rejected_recipients modify nul on_split
syntax keyword mailgateDirective optional_step private_key protocols quit rcpt rcpt_to read_timeout reject
syntax keyword mailgateDirective relay_from reload_interval require_tls reroute resolver root_ca rset
syntax keyword mailgateDirective runtime_dir servers session_timeout shutdown_timeout smtp_max_line_length
syntax keyword mailgateDirective source source_in state_dir step strict_addresses strict_line_endings
syntax keyword mailgateDirective submission_timeout targets tempfail timeout timeouts tls tls_client
syntax keyword mailgateDirective tls_client_cert tls_default_ca tls_sni tls_verify_host tls_verify_name total
syntax keyword mailgateDirective trusted verify_failure
syntax keyword mailgateModule chain checks email_localpart email_with_domain file identity lmtp maildir
syntax keyword mailgateModule modifiers modify.replace_rcpt modify.replace_sender msgpipeline pki regexp
syntax keyword mailgateModule replace_rcpt replace_sender smtp static table.chain table.email_localpart
syntax keyword mailgateModule table.email_with_domain table.file table.identity table.regexp table.static
syntax keyword mailgateModule target.lmtp target.maildir target.smtp test
syntax keyword mailgateValue 8BITMIME BDAT BINARYMIME CHUNKING ENHANCEDSTATUSCODES EXPN HELP LIMITS PIPELINING
syntax keyword mailgateValue SIZE SMTPUTF8 STARTTLS VRFY accept allow clear defer disabled external false
syntax keyword mailgateValue ignore login next no normalize off on optional optional_verify ordered plain
syntax keyword mailgateValue require require_verify self_signed strip true yes
syntax keyword mailgateOperator and else if in matches not or then when
syntax match mailgateFunction "\<\%(contains\|domain\|has_prefix\|has_suffix\|hash\|is_local\|len\|localpart\|lookup\|lower\|split\|upper\)\ze("

syntax match mailgateNumber "\<\d\+\%(\.\d\+\)\=\%(ms\|us\|[wdhmsGMKBgkb]\)\=\>"
syntax match mailgateAddress "\<\%(tcp\|tls\|unix\|mx\|fd\)://\S*"
syntax match mailgateReference "\%(^\|\s\)\zs&[A-Za-z_][A-Za-z0-9_.-]*"
syntax match mailgateMacro "\$([A-Za-z_][A-Za-z0-9_.-]*)" containedin=mailgateAddress
syntax match mailgateSnippet "^\s*([A-Za-z_][A-Za-z0-9_.-]*)"
syntax match mailgateEnvironment "{env:[^}]*}" containedin=mailgateString,mailgateAddress
syntax match mailgateJoin "\s\zs\\$"
syntax region mailgateString start=+\%(^\|[[:space:](\[,]\)\zs"+ skip=+\\"+ end=+"+
syntax match mailgateComment "\%(^\|\s\)\zs#.*$" contains=@Spell

highlight default link mailgateDirective Keyword
highlight default link mailgateModule Type
highlight default link mailgateValue Constant
highlight default link mailgateOperator Operator
highlight default link mailgateFunction Function
highlight default link mailgateNumber Number
highlight default link mailgateAddress Identifier
highlight default link mailgateReference Identifier
highlight default link mailgateMacro PreProc
highlight default link mailgateSnippet PreProc
highlight default link mailgateEnvironment PreProc
highlight default link mailgateJoin Special
highlight default link mailgateString String
highlight default link mailgateComment Comment

let b:current_syntax = "mailgate"
